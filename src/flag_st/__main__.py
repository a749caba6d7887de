"""``python -m flag_st`` is the command ``flag-st``."""

from flag_st.commands.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
