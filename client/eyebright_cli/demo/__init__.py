"""``eyebright demo``: the bundled gallery, searched for a person to see, and measured.

``gallery`` reads the pictures, ``queries`` says what is asked, ``evaluation`` measures, ``contact_sheet`` draws the
page, ``command`` runs them in order.
"""
