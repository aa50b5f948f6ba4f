"""The page on which a detector is tried: ``divdet demo``. Gradio is imported when it starts."""
