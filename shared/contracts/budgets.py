"""How much of what they may ask teachers keys have asked."""

from typing import Self

from shared.contracts.base import Contract, Name
from shared.contracts.keys import KeyId, KeyView


class BudgetView(Contract):
    """The budget of one key, in rows: images that a teacher answered, in the key's whole life."""

    key_id: KeyId
    owner: Name
    teacher_rows: int
    """That the key may ask."""
    taken: int
    """Of these; with what other replicas that share the ledger hold ready, and what died with a process."""
    left: int

    @classmethod
    def of(cls, key: KeyView, taken: int, budget: int) -> Self:
        """Return the view of a key's budget."""
        return cls(
            key_id=key.id, owner=key.owner, teacher_rows=budget, taken=taken, left=max(0, budget - taken)
        )


class BudgetList(Contract):
    """The keys that have a budget, the oldest first."""

    budgets: tuple[BudgetView, ...]
