// Kept tokens: shows the map that is chosen, and marks the prompt's tokens by how many of the chosen layers and heads hold them.
const keptData = document.getElementById("kept-data");
if (keptData) {
  const samples = JSON.parse(keptData.textContent);
  const choice = (key) => document.getElementById(`kept-${key}`);
  const [sampleChoice, methodChoice, headChoice] = ["sample", "method", "head"].map(choice);
  const said = document.getElementById("kept-said");
  const area = document.querySelector(".kept-text");

  const fill = (select, names) => {
    const before = select.selectedOptions[0]?.textContent;
    select.replaceChildren(...names.map((name, at) => new Option(name, String(at))));
    select.selectedIndex = Math.max(0, names.indexOf(before));
  };

  const positions = (ranges) =>
    ranges === ""
      ? []
      : ranges.split(",").flatMap((part) => {
          const [first, last = first] = part.split("-").map(Number);
          return Array.from({ length: last - first + 1 }, (_, at) => first + at);
        });

  // all, then each layer, then each of its heads: [name, tenths of those heads that hold each token]
  const tenths = (heads, tokens) => {
    const counts = new Uint32Array(tokens);
    for (const head of heads) for (const position of positions(head)) counts[position] += 1;
    return counts.map((count) => Math.ceil((10 * count) / heads.length));
  };
  const headsOf = (method, tokens) => {
    const all = "all layers and heads";
    if (method.tenths !== undefined)
      return [[all, () => [...method.tenths].map((digit) => Number.parseInt(digit, 16))]];
    const of = (heads) => () => tenths(heads, tokens);
    return [
      [all, of(method.ranges.flat())],
      ...method.ranges.flatMap((heads, layer) => [
        [`layer ${layer}, all heads`, of(heads)],
        ...heads.map((head, at) => [`layer ${layer}, head ${at}`, of([head])]),
      ]),
    ];
  };

  // Neighbours that are held equally often are one element.
  const mark = (sample, held) => {
    const answers = new Set(sample.answers);
    const parts = [];
    for (const [at, token] of sample.tokens.entries()) {
      const name = `${held[at] > 0 ? `held held-${held[at]}` : "dropped"}${answers.has(at) ? " answer" : ""}`;
      const last = parts.at(-1);
      if (last?.name === name) last.text += token;
      else parts.push({ name, text: token });
    }
    area.replaceChildren(
      ...parts.map(({ name, text }) => {
        const element = document.createElement("span");
        element.className = name;
        element.textContent = text;
        return element;
      }),
    );
  };

  const show = () => {
    const sample = samples[sampleChoice.selectedIndex];
    fill(
      methodChoice,
      sample.methods.map((method) => method.series),
    );
    const method = sample.methods[methodChoice.selectedIndex];
    const heads = headsOf(method, sample.tokens?.length ?? 0);
    fill(
      headChoice,
      heads.map(([name]) => name),
    );
    for (const figure of document.querySelectorAll(".kept figure")) {
      const { sample: own, method: at } = figure.dataset;
      figure.hidden = Number(own) !== sampleChoice.selectedIndex || Number(at) !== methodChoice.selectedIndex;
    }
    area.hidden = sample.tokens === null;
    if (sample.tokens === null) {
      said.textContent =
        "The text is not here: it takes --log_samples, and the model's tokenizer where the report is made.";
      return;
    }
    const [name, heldBy] = heads[headChoice.selectedIndex];
    const held = heldBy();
    mark(sample, held);
    const kept = [...held].filter((count) => count > 0).length;
    said.textContent = `${method.series}, ${name}: ${kept} of ${sample.tokens.length} tokens are held by at least one. The stronger the colour, the more of them hold it; grey: none; underlined: the answer.`;
  };

  for (const select of [sampleChoice, methodChoice, headChoice]) select.addEventListener("change", show);
  show();
}
