"""A training step on an emulated chip: blocks settle and are nudged there, digital parts run in PyTorch."""


def training_step(model, x, y, loss_fn):  # type: ignore[no-untyped-def]  # shown to users as it stands
    """One step: returns the loss, and adds the chip's gradient to the ``.grad`` of the model's parameters.

    x is the model's input (a tuple for several, a dict by name); loss_fn(output, y) a scalar tensor.
    """
    args, kwargs = ((), x) if isinstance(x, dict) else (x if isinstance(x, tuple) else (x,), {})
    loss = loss_fn(model(*args, **kwargs), y)  # free phase of each block on the chip
    loss.backward()  # two nudged phases of each block on the chip, backpropagation through digital parts
    return loss.detach()
