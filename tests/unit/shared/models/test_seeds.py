from shared.models.seeds import generator_of, mixed_seed


def test_purpose_and_numbers_decide_and_nothing_else_does():
    assert mixed_seed("order", 1, 2) == mixed_seed("order", 1, 2)
    assert (
        len({mixed_seed("order", 1, 2), mixed_seed("order", 12), mixed_seed("order", 2, 1), mixed_seed("x")})
        == 4
    )


def test_a_generator_starts_at_its_seed():
    assert generator_of("order", 3).initial_seed() == mixed_seed("order", 3)
