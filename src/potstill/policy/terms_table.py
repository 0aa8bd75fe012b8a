"""The terms Potstill knows: a literal table, read on the day each row names. It is no legal advice.

A row says what the text says of training another model, and what must be passed on; where the text is silent or was
not read first-hand, the row is stricter than it may be, never laxer.
"""

from __future__ import annotations

from collections.abc import Mapping

from potstill.policy.terms import Duty, Terms

READ = "2026-11-25"

_NOTICE = Duty("attribution", "Keep the copyright and licence text of the work beside what is made from it.")
_CREDIT = Duty("attribution", "Name the authors and the licence, link to both, and say that changes were made.")
_ALIKE = Duty("share-alike", "Pass adaptations on under the same or a compatible licence.")
_NOT_FOR_MONEY = Duty("non-commercial", "Use and pass on for purposes that are not commercial only.")
_RESTRICTED = Duty("use-restrictions", "Bind whoever receives the student to the use restrictions of the terms.")
_COPY = Duty("pass-on", "Give a copy of the terms to whoever receives the student.")
_NOT_EU = Duty("use-restrictions", "The multimodal models are not licensed to those who live or have a seat in the EU.")
_CHANGED = Duty("pass-on", "Mark changed files as changed.")


def _cc(kind: str) -> tuple[str, ...]:
    """How a Creative Commons licence is spelt with each of its versions."""
    return (kind, *(f"{kind}-{version}" for version in ("1.0", "2.0", "2.5", "3.0", "4.0")))


def _llama(version: str, *more: Duty) -> Terms:
    """Llama 3.1 and later: one text but for the version in it."""
    number = version.replace(".", "_")
    return Terms(
        id=f"Llama-{version}",
        title=f"Llama {version} Community License",
        source=f"https://www.llama.com/llama{number}/license/",
        read=READ,
        aliases=(f"llama{version}", f"llama-{version}-community", f"llama {version} community license agreement"),
        outputs="accept",
        derive="accept",
        family="llama",
        name_prefix="Llama",
        duties=(
            Duty(
                "notice",
                f"Llama {version} is licensed under the Llama {version} Community License, "
                "Copyright © Meta Platforms, Inc. All Rights Reserved.",
            ),
            Duty("notice", "Built with Llama"),
            Duty("naming", 'The name of the model must begin with "Llama".'),
            _COPY,
            _RESTRICTED,
            Duty("scale", "More than 700 million monthly users on the day of its release need a licence of their own."),
            *more,
        ),
        clause="1.b.i, 1.b.iii, 2",
    )


_FREE = (
    Terms("Apache-2.0", "Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0", READ,
          ("apache", "apache 2", "apache2", "apache license 2.0", "apache software license"), duties=(_NOTICE,),
          clause="4"),
    Terms("MIT", "MIT License", "https://spdx.org/licenses/MIT.html", READ, ("expat",), duties=(_NOTICE,)),
    Terms("BSD", "BSD licences", "https://spdx.org/licenses/BSD-3-Clause.html", READ,
          ("bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "new bsd", "simplified bsd", "0bsd"),
          duties=(_NOTICE,)),
    Terms("ISC", "ISC License", "https://spdx.org/licenses/ISC.html", READ, duties=(_NOTICE,)),
    Terms("CC0-1.0", "Creative Commons Zero 1.0", "https://creativecommons.org/publicdomain/zero/1.0/", READ,
          ("cc0", "public domain", "pddl", "pddl-1.0", "unlicense")),
    Terms("ODC-By-1.0", "Open Data Commons Attribution", "https://opendatacommons.org/licenses/by/1-0/", READ,
          ("odc-by",), duties=(_CREDIT,)),
    Terms("CC-BY", "Creative Commons Attribution", "https://creativecommons.org/licenses/by/4.0/", READ,
          _cc("cc-by"), duties=(_CREDIT,)),
)  # fmt: skip

_SHARED = (
    Terms("CC-BY-SA", "Creative Commons Attribution-ShareAlike", "https://creativecommons.org/licenses/by-sa/4.0/",
          READ, _cc("cc-by-sa"), duties=(_CREDIT, _ALIKE), clause="3(b)"),
    Terms("CC-BY-NC", "Creative Commons Attribution-NonCommercial", "https://creativecommons.org/licenses/by-nc/4.0/",
          READ, _cc("cc-by-nc"), commercial="no", duties=(_CREDIT, _NOT_FOR_MONEY), clause="2(a)(1)"),
    Terms("CC-BY-NC-SA", "Creative Commons Attribution-NonCommercial-ShareAlike",
          "https://creativecommons.org/licenses/by-nc-sa/4.0/", READ, _cc("cc-by-nc-sa"), commercial="no",
          duties=(_CREDIT, _ALIKE, _NOT_FOR_MONEY), clause="2(a)(1), 3(b)"),
    Terms("CC-BY-ND", "Creative Commons Attribution-NoDerivatives", "https://creativecommons.org/licenses/by-nd/4.0/",
          READ, _cc("cc-by-nd"), derive="no", outputs="ask", duties=(_CREDIT,), clause="2(a)(1)"),
    Terms("CC-BY-NC-ND", "Creative Commons Attribution-NonCommercial-NoDerivatives",
          "https://creativecommons.org/licenses/by-nc-nd/4.0/", READ, _cc("cc-by-nc-nd"), derive="no", outputs="ask",
          commercial="no", duties=(_CREDIT, _NOT_FOR_MONEY), clause="2(a)(1)"),
    Terms("ODbL-1.0", "Open Database License", "https://opendatacommons.org/licenses/odbl/1-0/", READ, ("odbl",),
          duties=(_CREDIT, _ALIKE), clause="4.4"),
    Terms("GPL", "GNU General Public Licences", "https://www.gnu.org/licenses/gpl-3.0.html", READ,
          ("gpl-2.0", "gpl-3.0", "gpl-2.0-only", "gpl-2.0-or-later", "gpl-3.0-only", "gpl-3.0-or-later", "gplv3",
           "agpl-3.0", "agpl-3.0-only", "agpl-3.0-or-later", "lgpl-2.1", "lgpl-3.0"),
          derive="ask", outputs="ask", duties=(_NOTICE, _ALIKE)),
)  # fmt: skip

_MODELS = (
    Terms("Llama-2", "Llama 2 Community License", "https://ai.meta.com/llama/license/", READ,
          ("llama2", "llama 2 community", "llama-2-community"), derive="accept", outputs="no", family="llama",
          duties=(Duty("notice", "Llama 2 is licensed under the LLAMA 2 Community License, "
                                 "Copyright (c) Meta Platforms, Inc. All Rights Reserved."),
                  _COPY, _RESTRICTED,
                  Duty("scale", "More than 700 million monthly users need a licence of their own.")),
          clause="1.b.iii, 1.b.v"),
    Terms("Llama-3", "Meta Llama 3 Community License", "https://www.llama.com/llama3/license/", READ,
          ("llama3", "llama-3-community", "meta llama 3 community"), derive="accept", outputs="no", family="llama",
          name_prefix="Llama 3",
          duties=(Duty("notice", "Meta Llama 3 is licensed under the Meta Llama 3 Community License, "
                                 "Copyright © Meta Platforms, Inc. All Rights Reserved."),
                  Duty("notice", "Built with Meta Llama 3"),
                  Duty("naming", 'The name of the model must begin with "Llama 3".'), _COPY, _RESTRICTED,
                  Duty("scale", "More than 700 million monthly users need a licence of their own.")),
          clause="1.b.i, 1.b.v"),
    _llama("3.1"),
    _llama("3.2", _NOT_EU),
    _llama("3.3"),
    _llama("4", _NOT_EU),
    Terms("Gemma", "Gemma Terms of Use (Gemma 1 to 3)", "https://ai.google.dev/gemma/terms", READ,
          ("gemma terms of use", "google-gemma"), derive="accept", outputs="accept", fixed=False,
          duties=(Duty("notice", "Gemma is provided under and subject to the Gemma Terms of Use found at "
                                 "ai.google.dev/gemma/terms"), _COPY, _CHANGED, _RESTRICTED),
          clause="1.1(e), 3.1, 3.2"),
    Terms("Qwen", "Qwen License Agreement",
          "https://huggingface.co/Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE", READ,
          ("tongyi-qianwen", "qwen license agreement", "tongyi qianwen license agreement"),
          derive="accept", outputs="accept", confirmed=False,
          duties=(Duty("notice", "Qwen is licensed under the Qwen LICENSE AGREEMENT, "
                                 "Copyright (c) Alibaba Cloud. All Rights Reserved."),
                  Duty("notice", "Built with Qwen"), _COPY, _CHANGED,
                  Duty("scale", "More than 100 million monthly users need a licence of their own."))),
    Terms("Qwen-Research", "Qwen Research License Agreement",
          "https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE", READ,
          ("qwen-research", "qwen research license agreement"), derive="accept", outputs="accept", commercial="no",
          confirmed=False, duties=(Duty("notice", "Built with Qwen"), _COPY, _NOT_FOR_MONEY)),
    Terms("DeepSeek", "DeepSeek License Agreement 1.0",
          "https://github.com/deepseek-ai/DeepSeek-V3/blob/main/LICENSE-MODEL", READ,
          ("deepseek license agreement", "deepseek-license", "deepseek-model-license", "deepseek-la-1.0"),
          derive="accept", outputs="accept", duties=(_NOTICE, _COPY, _CHANGED, _RESTRICTED),
          clause="4, 5, attachment A"),
    Terms("MNPL-0.1", "Mistral AI Non-Production License", "https://mistral.ai/licenses/MNPL-0.1.md", READ,
          ("mnpl", "mistral ai non-production"), derive="ask", outputs="ask", commercial="no", confirmed=False,
          duties=(_COPY, _NOT_FOR_MONEY), clause="3.2"),
    Terms("MRL-0.1", "Mistral AI Research License", "https://mistral.ai/licenses/MRL-0.1.md", READ,
          ("mrl", "mistral ai research"), derive="ask", outputs="ask", commercial="no", confirmed=False,
          duties=(_COPY, _NOT_FOR_MONEY)),
    Terms("OpenRAIL", "Responsible AI licences (BigScience, BigCode, CreativeML)",
          "https://huggingface.co/spaces/bigscience/license", READ,
          ("openrail", "openrail++", "openrail-m", "bigscience-openrail-m", "bigscience-bloom-rail-1.0",
           "bigcode-openrail-m", "creativeml-openrail-m", "bloom-rail-1.0"),
          derive="accept", outputs="accept", duties=(_COPY, _CHANGED, _RESTRICTED), clause="1(e), 4, attachment A"),
)  # fmt: skip

_SERVICES = (
    Terms("OpenAI-API", "OpenAI service terms", "https://openai.com/policies/row-terms-of-use/", READ,
          ("openai",), outputs="ask", compete="no", fixed=False, clause="What you cannot do"),
    Terms("Anthropic-API", "Anthropic commercial terms", "https://www.anthropic.com/legal/commercial-terms", READ,
          ("anthropic",), outputs="ask", compete="no", fixed=False, clause="D.4"),
    Terms("Google-API", "Gemini API additional terms", "https://ai.google.dev/gemini-api/terms", READ,
          ("gemini", "google-gemini"), outputs="ask", compete="no", fixed=False, clause="Use restrictions"),
    Terms("AWS-Bedrock", "AWS service terms, Bedrock", "https://aws.amazon.com/service-terms/", READ,
          ("bedrock",), outputs="ask", compete="no", confirmed=False, fixed=False, clause="50"),
)  # fmt: skip

# A licence that nobody here knows, and one that nobody stated for something of this machine's owner.
UNKNOWN = Terms("unknown", "Unknown terms", "", READ, derive="ask", outputs="ask", compete="ask", commercial="ask",
                confirmed=False, fixed=False)  # fmt: skip
UNDECLARED = Terms("undeclared", "No licence stated", "", READ, derive="ask", outputs="ask", compete="ask",
                   commercial="ask", confirmed=False, fixed=False)  # fmt: skip

TERMS: Mapping[str, Terms] = {one.id: one for one in (*_FREE, *_SHARED, *_MODELS, *_SERVICES, UNKNOWN, UNDECLARED)}

# Whose terms hold at an address, whatever is declared beside it. Patterns of host names.
HOSTS: Mapping[str, str] = {
    "openai.com": "OpenAI-API",
    "*.openai.com": "OpenAI-API",
    "*.openai.azure.com": "OpenAI-API",
    "anthropic.com": "Anthropic-API",
    "*.anthropic.com": "Anthropic-API",
    "generativelanguage.googleapis.com": "Google-API",
    "*aiplatform.googleapis.com": "Google-API",
    "bedrock*.amazonaws.com": "AWS-Bedrock",
}
