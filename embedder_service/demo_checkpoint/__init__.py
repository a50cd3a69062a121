"""The bundled checkpoint: a small SigLIP trained on openly licensed emoji art. README.md here is its model card."""
