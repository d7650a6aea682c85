"""``python -m gradcam_multi`` is ``gradcam``."""

from gradcam_multi.cli import main

if __name__ == "__main__":
    main(prog_name="gradcam")
