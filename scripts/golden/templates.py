"""Chat templates that write the prompt formats of the model families as their documentation gives them, rendered by transformers.

Written for this test: the formats and the Jinja constructs are those of the families' own templates (system prompt and date of Llama 3.1, tools as
JSON, alternation and the place of the system prompt of Mistral v0.3, default system prompt of Qwen2.5, thoughts of Qwen3, roles of GLM-4).
Writes test/golden/templates.json: [{family, template, tokens, cases: [{messages, generation, variables, prompt or error}]}], on 26 July 2024.
Run again with `make golden`.
"""

import datetime
import json
from pathlib import Path

from transformers.utils import chat_template_utils

OUT = Path(__file__).resolve().parents[2] / "test" / "golden" / "templates.json"

LLAMA31 = """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- macro header(role) %}{{- "<|start_header_id|>" + role + "<|end_header_id|>\\n\\n" }}{%- endmacro %}
{%- if messages[0]["role"] == "system" %}
    {%- set system_text = messages[0]["content"] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_text = "" %}
{%- endif %}
{{- header("system") }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_text }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and tools is not none %}
    {%- if messages | length == 0 %}{{- raise_exception("tools need a first user message") }}{%- endif %}
    {%- set first = messages[0]["content"] | trim %}
    {%- set messages = messages[1:] %}
    {{- header("user") }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
    {{- first + "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "ipython" or message.role == "tool" %}
        {{- header("ipython") }}
        {%- if message.content is mapping or (message.content is iterable and message.content is not string) %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- elif "tool_calls" in message and message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception("one call at a time") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- header("assistant") }}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- "}<|eot_id|>" }}
    {%- else %}
        {{- header(message["role"]) }}{{- message["content"] | trim }}{{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- header("assistant") }}{%- endif %}
"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_text = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- set users = turns | selectattr("role", "equalto", "user") | list %}
{%- set state = namespace(turn=0) %}
{%- for message in turns %}
    {%- if not (message.role == "tool" or message.get("tool_calls")) %}
        {%- if (message["role"] == "user") != (state.turn % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set state.turn = state.turn + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message["role"] == "user" %}
        {%- if tools is defined and tools is not none and message == users[-1] %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, value in tool.function.items() if key != "return" %}
                    {%- if value is string %}{{- '"' + key + '": "' + value + '"' }}{%- else %}{{- '"' + key + '": ' + value | tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- endif %}
            {%- endfor %}
            {{- "][/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_text is defined %}{{- "[INST] " + system_text + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"] + eos_token }}
    {%- else %}{{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""

QWEN25 = """{%- set default = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant." %}
{%- if tools %}
    {{- "<|im_start|>system\\n" }}
    {%- if messages[0]["role"] == "system" %}{{- messages[0]["content"] }}{%- else %}{{- default }}{%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0]["role"] == "system" %}{{- "<|im_start|>system\\n" + messages[0]["content"] + "<|im_end|>\\n" }}
{%- else %}{{- "<|im_start|>system\\n" + default + "<|im_end|>\\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- "<|im_start|>" + message.role + "\\n" + message.content + "<|im_end|>" + "\\n" }}
    {%- elif message.role == "assistant" %}
        {{- "<|im_start|>" + message.role }}
        {%- if message.content %}{{- "\\n" + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}{{- call.arguments | tojson }}{{- "}\\n</tool_call>" }}
        {%- endfor %}
        {{- "<|im_end|>\\n" }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- "<|im_start|>user" }}{%- endif %}
        {{- "\\n<tool_response>\\n" }}{{- message.content }}{{- "\\n</tool_response>" }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- "<|im_end|>\\n" }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\\n" }}{%- endif %}
"""

QWEN3 = """{%- if messages[0].role == "system" %}{{- "<|im_start|>system\\n" + messages[0].content + "<|im_end|>\\n" }}{%- endif %}
{%- set ns = namespace(multi_step=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string
        and not (message.content.startswith("<tool_response>") and message.content.endswith("</tool_response>")) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = "" %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- "<|im_start|>" + message.role + "\\n" + content + "<|im_end|>" + "\\n" }}
    {%- elif message.role == "assistant" %}
        {%- set thought = "" %}
        {%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}
        {%- elif "</think>" in content %}
            {%- set thought = content.split("</think>")[0].rstrip("\\n").split("<think>")[-1].lstrip("\\n") %}
            {%- set content = content.split("</think>")[-1].lstrip("\\n") %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or thought) %}
            {{- "<|im_start|>" + message.role + "\\n<think>\\n" + thought.strip("\\n") + "\\n</think>\\n\\n" + content.lstrip("\\n") }}
        {%- else %}{{- "<|im_start|>" + message.role + "\\n" + content }}
        {%- endif %}
        {{- "<|im_end|>\\n" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- "<think>\\n\\n</think>\\n\\n" }}{%- endif %}
{%- endif %}
"""

GLM4 = """[gMASK]<sop>
{%- if tools -%}
<|system|>
# tools
{% for tool in tools %}
{%- set function = tool.function if tool.get("function") else tool %}

## {{ function.name }}

{{ function | tojson(indent=4, ensure_ascii=False) }}
{%- endfor %}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == "system" -%}
<|system|>
{{ message.content }}
    {%- elif message.role == "user" -%}
{{- "<|user|>\\n" }}
{%- if message.content is string %}{{- message.content }}
{%- else %}{%- for part in message.content %}{%- if part.type == "text" %}{{- part.text }}{%- endif %}{%- endfor %}
{%- endif -%}
    {%- elif message.role == "assistant" -%}
<|assistant|>
{{ message.content }}
    {%- endif -%}
{%- endfor -%}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""

FAMILIES = {
    "llama-3.1": (LLAMA31, dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")),
    "mistral-v0.3": (MISTRAL, dict(bos_token="<s>", eos_token="</s>")),
    "qwen2.5": (QWEN25, dict(eos_token="<|im_end|>")),
    "qwen3": (QWEN3, dict(eos_token="<|im_end|>")),
    "glm-4": (GLM4, dict(eos_token="<|endoftext|>")),
}

SYSTEM = {"role": "system", "content": " Be brief. "}
USER = {"role": "user", "content": "Where's the lamp?\n"}
ANSWER = {"role": "assistant", "content": "<think>\n\nIt was “there”.\n</think>\n\nOn the table."}
MORE = {"role": "user", "content": "And the 灯 \"key\" & <door>?"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"what": "lamp", "n": 2}}}]}
RESULT = {"role": "tool", "content": "{\"at\": \"table\"}"}
TOOL = {
    "type": "function",
    "function": {
        "name": "find", "description": "Finds é things.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}, "n": {"type": "integer", "default": 1.5}}, "required": ["what"]},
    },
}  # fmt: skip
CASES = [
    ([USER], True, {}), ([USER], False, {}), ([SYSTEM, USER], True, {}), ([SYSTEM, USER, ANSWER, MORE], True, {}),
    ([USER, ANSWER], False, {}), ([USER], True, {"enable_thinking": False}), ([USER], True, {"enable_thinking": True}),
    ([USER], True, {"date_string": "01 Jan 2026"}), ([USER], True, {"tools": [TOOL]}), ([SYSTEM, USER, CALL, RESULT], True, {}),
    ([USER, MORE], True, {}), ([ANSWER], True, {}),
]  # fmt: skip


class July(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def render(template, tokens, messages, generation, variables):
    compiled = chat_template_utils._compile_jinja_template(template)
    return compiled.render(messages=messages, add_generation_prompt=generation, **{"tools": None, "documents": None, **variables}, **tokens)


if __name__ == "__main__":
    chat_template_utils.datetime = July
    goldens = []
    for family, (template, tokens) in FAMILIES.items():
        cases = []
        for messages, generation, variables in CASES:
            case = dict(messages=messages, generation=generation, variables=variables)
            try:
                cases.append({**case, "prompt": render(template, tokens, messages, generation, variables)})
            except Exception as error:
                cases.append({**case, "error": str(error)})
        goldens.append(dict(family=family, template=template, tokens=tokens, cases=cases))
        print(f"{family}: {len(cases)} conversations, {sum('error' in case for case in cases)} refused")
    OUT.write_text("[\n" + ",\n".join(json.dumps(golden, ensure_ascii=False) for golden in goldens) + "\n]\n")
