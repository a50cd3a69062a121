"""The tables of the paper that Eyebright grew out of, measured again beside its recipes.

``published`` holds the paper's own figures, ``indexes`` its four indexes, ``brute_force`` what it compares them with,
``hosted`` the service's recipes over gRPC; ``task`` says what is asked and judges answers, ``results`` keeps what was
measured, ``page`` and ``plots`` show it. ``benchmarks.paper_tables`` runs all of it. torch is never imported here.
"""
