"""A cohort that teaches itself (mutual learning, arXiv:1706.00384).

Full form: two ResNet-20 on photographs. Reduced form (2 minutes): two 784-800-800-10 on 5,000 digits.
"""

from experiments import peers, recipes, teachers
from experiments.experiment import Experiment, Form, JobStep, Outcomes
from experiments.result import Finding, Published
from shared.contracts.architectures import Mlp, ResNet
from shared.contracts.reports import MutualReport
from shared.contracts.specs import MutualSpec
from shared.contracts.training import Regularisation

COHORT = "cohort"
WORDS = {"untaught": "alone, hard labels", "taught": "first member of the cohort"}
"""By arm of the report; the other members keep their names."""


def steps(form: Form) -> list[JobStep]:
    """Return the one job."""
    spec = MutualSpec(
        name=form.named("mutual", COHORT),
        dataset="mnist-5k" if form.reduced else "cifar10",
        network=Mlp(hidden_units=(800, 800)) if form.reduced else ResNet(architecture="resnet20"),
        regularisation=Regularisation() if form.reduced else Regularisation(jitter_px=4, flip=True),
        members=2,
        budget=recipes.digits_budget(60) if form.reduced else teachers.photographs_budget(200),
        seeds=form.seeds,
    )
    return [JobStep(COHORT, spec)]


def summarise(outcomes: Outcomes) -> Finding:
    """Give the verdict, whichever it is."""
    return peers.finding(outcomes.report(COHORT, MutualReport), WORDS)


EXPERIMENT = Experiment(
    name="mutual",
    title="A cohort that teaches itself",
    source="pointers of the write-up: arXiv:1706.00384",
    published=(Published(label="gain over the untaught twin", figure="no figure in the sources"),),
    to_reach="a gain over the untaught twin: the verdict, whichever it is",
    reduced="784-800-800-10 on 5,000 digits in place of ResNet-20 on CIFAR-10, 60 epochs for 200",
    minutes=(120, 3),
    steps=steps,
    summarise=summarise,
)
