"""A streaming voice server around CosyVoice 2 and 3, run inside CosyVoice's own environment (docker/cosyvoice).

It imports nothing of the rest of this project, and runs on Python 3.10: CosyVoice's pins cannot live in ours.
"""
