"""``python -m eyebright_cli`` is the ``eyebright`` command."""

from eyebright_cli.app import main

main()
