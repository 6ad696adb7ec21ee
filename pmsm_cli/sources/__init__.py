"""The outside world coming in: network files, folders of images, and how an image becomes a network's input."""
