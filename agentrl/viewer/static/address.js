// The page's address holds its state: every choice that a script offers is read from it and written to it.

export function read(name, otherwise = "") {
  return new URLSearchParams(location.search).get(name) ?? otherwise;
}

// Changes parameters without a new page; an empty value takes the parameter away.
export function write(changes) {
  const params = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === null || value === undefined) params.delete(name);
    else params.set(name, value);
  }
  const query = params.toString();
  history.replaceState(history.state, "", `${location.pathname}${query ? `?${query}` : ""}${location.hash}`);
}

export async function fetchJson(address) {
  const answer = await fetch(address, { headers: { accept: "application/json" } });
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error ?? `the server answered ${answer.status}`);
  return content;
}
