"""What the tests of the registry publish."""

from online_trl.types import ModelRole


def weights(text="weights"):
    def write(folder):
        (folder / "model.safetensors").write_text(text)
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "vocab.json").write_text("{}")

    return write


def publish(registry, role=ModelRole.POLICY, **fields):
    return registry.publish(role, weights(), **fields).name
