"""How the demo checkpoint and the demo gallery are made. Not part of the wheel; needs the [dev] extra and npm."""
