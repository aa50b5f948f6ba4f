"""``divdet plan``: see divdet/commands/__init__.py."""

from divdet.commands import main

if __name__ == "__main__":
    main("plan")
