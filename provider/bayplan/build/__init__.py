"""Dockerfile -> OCI image: the whole language, cached by content, with a forecast that has no effect.

The way in is :class:`bayplan.build.builder.Builder`; :mod:`.spec` holds what it is asked and answers, :mod:`.port` what it
needs from a runtime. From text to image: :mod:`.dockerfile` (the language), :mod:`.planning` (which stages), :mod:`.reading`
(one stage, words final), :mod:`.keys` (what a result depends on), :mod:`.executing` (cache, or the work), :mod:`.placing`
(where copied files land), :mod:`.assembling` (the manifest).
"""
