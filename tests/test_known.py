"""What is known of tensors is found once, and forgotten with them."""

from __future__ import annotations

import torch

from hcompile.known import Known


def test_each_number_is_found_once_until_a_tensor_changes() -> None:
    asked = []

    def find(first: torch.Tensor, second: torch.Tensor, number: int) -> int:
        asked.append(number)
        return int(first.sum() + second.sum()) + number

    known, one, two = Known(find), torch.ones(2), torch.ones(3)
    assert [known(one, two, numbers=(n,)) for n in (1, 2, 1)] == [6, 7, 6] and asked == [1, 2]
    assert known.recall(one, two, numbers=(2,)) == 7 and known.recall(one, two, numbers=(3,)) is None
    two += 1
    assert known.recall(one, two, numbers=(1,)) is None
    assert known(one, two, numbers=(1,)) == 9


def test_what_lives_is_kept_however_much_it_is_and_what_is_gone_is_not() -> None:
    known = Known(lambda tensor, number: (float(tensor), number))
    kept = torch.tensor(1.0)
    for number in range(500):
        known(kept, numbers=(number,))
        known(torch.tensor(2.0), numbers=(number,))
    assert all(known.recall(kept, numbers=(number,)) == (1.0, number) for number in range(500))
    assert len(known._known) <= 1100
