// Unpacks the other scripts of this page, which are gzip in base64 to keep the file small, and runs them.
"use strict";
(async () => {
  try {
    const packed = Uint8Array.from(atob(document.getElementById("scripts").textContent), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.body.append(script);
  } catch (error) {
    const told = document.createElement("p");
    told.textContent = `The charts and recordings of this page cannot be shown: ${error}. A browser of 2023 or later shows them.`;
    document.querySelector("main").prepend(told);
  }
})();
