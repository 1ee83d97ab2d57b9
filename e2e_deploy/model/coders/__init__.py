"""The two halves around the UNet: pictures to latents, latents to images."""
