"""`python -m app.cli`, for images that hold the source and no installed package."""

from app.cli.main import main

if __name__ == "__main__":
    main()
