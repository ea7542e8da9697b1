"""`python -m admin …`: what an operator types."""

from admin.commands import main

if __name__ == "__main__":
    main(prog_name="python -m admin")
