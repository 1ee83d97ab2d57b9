"""``python -m e2e_deploy``: the command line where no script folder is on the path."""

from e2e_deploy.cli import main

main()
