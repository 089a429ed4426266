"""Entry points: each file is a command, `python tools/NAME.py`; the main ones are installed as `elip-NAME` too."""
