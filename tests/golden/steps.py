"""One training step of a task, and its gradients beside the published code's."""

from collections.abc import Mapping

from torch import Tensor

from elip.task import Batch, Progress, StepOutput, Task
from elip.weights.names import from_albef

OUTPUT = {"atol": 1e-5, "rtol": 1e-5}
GRADIENT = 1e-4
END_OF_FIRST_EPOCH = Progress(step=10, total_steps=20, steps_per_epoch=10)
"""Where alpha's warm-up is over."""


def run_step(task: Task, batch: Batch) -> StepOutput:
    """Return what a step gives, its gradients taken and its state updated."""
    task.on_step_start()
    output = task.training_step(batch, END_OF_FIRST_EPOCH)
    sum(output.losses.values()).backward()
    if output.after_backward is not None:
        output.after_backward()
    return output


def assert_gradients(task: Task, golden: Mapping[str, Tensor], floor: float = 0.0) -> None:
    """Gradients agree with all that are recorded, as `grad.NAME`, but for a difference of norm `floor`."""
    expected = {key.removeprefix("grad."): value for key, value in golden.items() if key.startswith("grad.")}
    assert expected
    gradients = {name: p.grad for name, p in task.named_parameters()}
    for name, want in from_albef(expected).items():
        assert (gradients[f"model.{name}"] - want).norm() <= GRADIENT * want.norm() + floor, name
