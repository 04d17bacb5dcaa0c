"""crewai: a researcher with a tool and a writer, one task each."""

from __future__ import annotations

from crewai import Agent, Crew, Task
from crewai.tools import tool


@tool("weather")
def weather(city: str, day: int) -> str:
    """The weather in a city, some days from now."""
    return f"sunny in {city} on day {day}"


researcher = Agent(role="Researcher", goal="Find sun", backstory="Knows the sky.", tools=[weather], llm="gpt-4o")
writer = Agent(role="Writer", goal="Put it well", backstory="Knows words.", llm="gpt-4o")
find = Task(description="Where is it sunny?", expected_output="Places", agent=researcher)
tell = Task(description="Write about these places.", expected_output="A verse", agent=writer)

result = Crew(agents=[researcher, writer], tasks=[find, tell]).kickoff()
for output in result.tasks_output:
    print(output.agent, output.raw)
    for message in output.messages:
        print(message["role"], message["content"], message.get("tool_calls"))
print(result.raw, result.token_usage)
