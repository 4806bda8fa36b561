// Unpacks and runs the other scripts of this page, which are compressed by gzip to keep the file small.
"use strict";
(async () => {
  try {
    const packed = Uint8Array.from(atob(document.getElementById("scripts").textContent), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.body.append(script);
  } catch (error) {
    const message = document.createElement("p");
    message.textContent = `The charts and recordings of this page cannot be shown: ${error}. Use a browser of 2023 or later.`;
    document.querySelector("main").prepend(message);
  }
})();
