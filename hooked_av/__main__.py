"""`python -m hooked_av` is `hooked-av`."""

from hooked_av.cli.main import main

if __name__ == "__main__":
    main()
