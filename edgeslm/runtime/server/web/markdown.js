// Markdown to DOM nodes. Text only ever becomes text nodes: nothing a model says is run as HTML.

const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]+?)\*\*|(?<![\w*])\*(?=\S)([^*\n]+?)\*(?![\w*])|(?<![\w_])_(?=\S)([^_\n]+?)_(?![\w_])|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)|(https?:\/\/[^\s<>()]+[^\s<>().,;:!?'"])/g;
const DEEPEST = 20; // of quotes and lists; what a model repeats without end stays text
const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+-]*)[^`]*$/;
const ITEM = /^(\s*)(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;

export function render(text, target) {
  target.replaceChildren(...blocks(text.replace(/\r\n?/g, "\n").split("\n")));
}

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function blocks(lines, depth = 0) {
  if (depth > DEEPEST) return [lines.join("\n")];
  const made = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      let end = at + 1;
      while (end < lines.length && !(lines[end].trim().startsWith(fence[1]) && !lines[end].trim().replaceAll(fence[1][0], ""))) end += 1;
      made.push(codeBlock(lines.slice(at + 1, end).join("\n"), fence[2]));
      at = end + 1;
    } else if (RULE.test(line)) {
      made.push(element("hr"));
      at += 1;
    } else if (HEADING.test(line)) {
      const [, marks, title] = HEADING.exec(line);
      made.push(element(`h${Math.min(marks.length, 3)}`, {}, ...inline(title)));
      at += 1;
    } else if (line.startsWith(">")) {
      const end = endOf(lines, at, (each) => each.startsWith(">"));
      made.push(element("blockquote", {}, ...blocks(lines.slice(at, end).map((each) => each.replace(/^> ?/, "")), depth + 1)));
      at = end;
    } else if (ITEM.test(line)) {
      let list;
      [list, at] = listBlock(lines, at, depth + 1);
      made.push(list);
    } else if (isTable(lines, at)) {
      const end = endOf(lines, at, (each) => each.includes("|"));
      made.push(table(lines.slice(at, end)));
      at = end;
    } else {
      const end = endOf(lines, at + 1, (each) => each.trim() && !startsBlock(each)) ;
      made.push(element("p", {}, ...withBreaks(lines.slice(at, end).join("\n"))));
      at = end;
    }
  }
  return made;
}

function startsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || ITEM.test(line) || RULE.test(line) || line.startsWith(">");
}

function endOf(lines, from, belongs) {
  let end = from;
  while (end < lines.length && belongs(lines[end])) end += 1;
  return end;
}

function listBlock(lines, start, depth) {
  const [, indent, bullet, number] = ITEM.exec(lines[start]);
  const list = element(bullet ? "ul" : "ol", number && number !== "1" ? { start: number } : {});
  let at = start;
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || item[1].length < indent.length || Boolean(item[2]) !== Boolean(bullet)) break;
    const width = lines[at].length - item[4].length;
    const own = [item[4]];
    at += 1;
    while (at < lines.length) {
      const line = lines[at];
      const depth = line.length - line.trimStart().length;
      const next = ITEM.exec(line);
      if (line.trim() && depth <= indent.length && (next || startsBlock(line) || !lines[at - 1].trim())) break;
      if (!line.trim() && !(lines[at + 1] ?? "").startsWith(" ")) {
        const following = ITEM.exec(lines[at + 1] ?? "");
        if (!following || following[1].length > indent.length) break;
      }
      own.push(line.slice(Math.min(depth, width)));
      at += 1;
    }
    const inner = blocks(own, depth);
    const only = inner.length && inner[0].tagName === "P" ? [...inner.shift().childNodes, ...inner] : inner;
    list.append(element("li", {}, ...only));
  }
  return [list, Math.max(at, start + 1)];
}

function isTable(lines, at) {
  return lines[at].includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1] ?? "") && lines[at + 1].includes("|");
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, name) => element("tr", {}, ...cells(line).map((cell) => element(name, {}, ...inline(cell))));
  return element("table", {}, element("thead", {}, row(lines[0], "th")),
    element("tbody", {}, ...lines.slice(2).map((line) => row(line, "td"))));
}

function codeBlock(code, language) {
  const copy = element("button", { type: "button", "aria-label": "Copy the code" }, "Copy");
  copy.addEventListener("click", () => copyText(code, copy));
  const inner = element("code", language ? { class: `language-${language}` } : {}, code);
  const head = element("div", { class: "code-head" }, element("span", {}, language), copy);
  return element("div", { class: "code" }, head, element("pre", { tabindex: "0" }, inner));
}

export async function copyText(text, button) {
  const former = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Pages that do not come over HTTPS have no clipboard; this old way still works there.
    const area = element("textarea", { class: "hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    button.textContent = document.execCommand("copy") ? "Copied" : "Not allowed";
    area.remove();
  }
  setTimeout(() => { button.textContent = former; }, 1500);
}

function withBreaks(text) {
  return text.split(/(?: {2,}|\\)\n/).flatMap((part, index) => index ? [element("br"), ...inline(part)] : inline(part));
}

function inline(text, depth = 0) {
  if (depth > DEEPEST) return [text];
  const made = [];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, , code, strong, emphasis, underlined, label, target, bare] = match;
    if (match.index > from) made.push(text.slice(from, match.index));
    from = match.index + whole.length;
    if (code !== undefined) made.push(element("code", {}, code));
    else if (strong !== undefined) made.push(element("strong", {}, ...inline(strong, depth + 1)));
    else if (emphasis ?? underlined) made.push(element("em", {}, ...inline(emphasis ?? underlined, depth + 1)));
    else made.push(element("a", { href: target ?? bare, target: "_blank", rel: "noopener noreferrer" }, label ?? bare));
  }
  if (from < text.length) made.push(text.slice(from));
  return made;
}
