"""Tools of an MCP server, called by the server of the conversation: list, ask first, call, go on.

A small model may call nothing: what it does is printed as it comes.
"""

import os
import socket
import threading
import time

import uvicorn
from mcp.server.mcpserver import MCPServer
from openai import OpenAI

MODEL = os.environ.get("MODEL", "SmolLM2-135M-Instruct")
client = OpenAI(base_url=os.environ.get("BASE_URL", "http://127.0.0.1:8080/v1"), api_key="unused")

toolbox = MCPServer("harbour", log_level="WARNING")


@toolbox.tool()
def tide(harbour: str) -> str:
    """When the tide is high in a harbour."""
    return f"High tide in {harbour} is at 14:20."


sock = socket.create_server(("127.0.0.1", 0))
server = uvicorn.Server(uvicorn.Config(toolbox.streamable_http_app(), log_level="warning"))
threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True).start()
while not server.started:
    time.sleep(0.05)

tool = {
    "type": "mcp",
    "server_label": "harbour",
    "server_url": f"http://127.0.0.1:{sock.getsockname()[1]}/mcp",
    "require_approval": "always",
}
choice = {"type": "mcp", "server_label": "harbour", "name": "tide"}

first = client.responses.create(
    model=MODEL,
    input="When is high tide in Brest? Use your tool.",
    tools=[tool],
    tool_choice=choice,
    max_output_tokens=100,
)
print("offered:", [t.name for item in first.output if item.type == "mcp_list_tools" for t in item.tools])

asked = [item for item in first.output if item.type == "mcp_approval_request"]
for request in asked:
    print("asks for:", request.name, request.arguments)
answers = [
    {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True} for request in asked
]
for event in client.responses.create(
    model=MODEL,
    input=answers or "Never mind the tool: what is a tide?",
    previous_response_id=first.id,
    tools=[tool],
    max_output_tokens=60,
    stream=True,
):
    if event.type.startswith("response.mcp_call."):
        print(event.type)
second = event.response

for item in second.output:
    if item.type == "mcp_call":
        print("ran:", item.name, item.arguments, "->", item.output or item.error)
print("said:", second.output_text)
print("rounds:", [one["path"] for one in second.caching.get("rounds", [second.caching])])
server.should_exit = True
