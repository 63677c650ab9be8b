"""The same net taught by itself, generation after generation (born-again networks, arXiv:1805.04770).

Full form: ResNet-20 on photographs. Reduced form (2 minutes): 784-800-800-10 on 5,000 digits.
"""

from experiments import peers, recipes, teachers
from experiments.experiment import Experiment, Form, JobStep, Outcomes
from experiments.result import Finding, Published
from shared.contracts.architectures import Mlp, ResNet
from shared.contracts.reports import SelfDistillationReport
from shared.contracts.specs import SelfDistillationSpec
from shared.contracts.training import TransferSetSpec

GENERATIONS = "generations"
WORDS = {"untaught": "generation 0, hard labels alone", "taught": "last generation"}
"""By arm of the report; the generations between keep their names."""


def steps(form: Form) -> list[JobStep]:
    """Return the one job."""
    spec = SelfDistillationSpec(
        name=form.named("self", GENERATIONS),
        dataset="mnist-5k" if form.reduced else "cifar10",
        network=Mlp(hidden_units=(800, 800)) if form.reduced else ResNet(architecture="resnet20"),
        generations=2,
        objective=recipes.WRITE_UP_OBJECTIVE,
        transfer_set=TransferSetSpec()
        if form.reduced
        else TransferSetSpec(views=100, jitter_px=4, flip=True),
        budget=recipes.digits_budget(60) if form.reduced else teachers.photographs_budget(200),
        seeds=form.seeds,
    )
    return [JobStep(GENERATIONS, spec)]


def summarise(outcomes: Outcomes) -> Finding:
    """Give the verdict, whichever it is."""
    return peers.finding(outcomes.report(GENERATIONS, SelfDistillationReport), WORDS)


EXPERIMENT = Experiment(
    name="self",
    title="A net taught by itself",
    source="pointers of the write-up: arXiv:1805.04770",
    published=(Published(label="gain over the untaught twin", figure="no figure in the sources"),),
    to_reach="a gain over the untaught twin: the verdict, whichever it is",
    reduced="784-800-800-10 on 5,000 digits in place of ResNet-20 on CIFAR-10, 60 epochs for 200",
    minutes=(120, 3),
    steps=steps,
    summarise=summarise,
)
