"""``eyebright doctor``: whether a running embedder gives the vectors it should.

``specimens`` holds what is embedded, ``golden`` what it must become, ``examination`` the subject and how findings are
made, ``embedder_checks`` and ``index_checks`` what is looked at, ``command`` runs them and shows what was found.
"""
