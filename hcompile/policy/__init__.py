"""The quality-budget policy: which heads become local, chosen and certified by measurement.

`hcompile.policy.policy.choose_plan` reads like the story; `hcompile.policy.certificate.certify` ends it.
"""
