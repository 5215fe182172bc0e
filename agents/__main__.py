"""`python -m agents`."""

import sys

if __name__ == "__main__":
    # All that takes time is in here, so that Ctrl-C ends it at any moment without a trace.
    try:
        from agents.command_line import main

        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
