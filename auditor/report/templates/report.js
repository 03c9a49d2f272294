(() => {
  "use strict";

  const root = document.documentElement;
  const MINUS = "\u2212";

  // Storage may be forbidden, full or absent; the page works without it.
  const stored = {
    get() {
      try {
        return localStorage.getItem("auditor-theme");
      } catch {
        return null;
      }
    },
    set(theme) {
      try {
        localStorage.setItem("auditor-theme", theme);
      } catch {
        // Forgotten on the next visit, no more.
      }
    },
  };

  const remembered = stored.get();
  if (remembered === "dark" || remembered === "light") root.dataset.theme = remembered;
  root.classList.add("js");

  const byId = (id) => document.getElementById(id);

  function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // The same text as documents.number.
  function number(value, digits) {
    if (value === null) return "–";
    const size = Math.abs(value);
    let text = size < 1e15 ? size.toFixed(digits) : "0";
    if (size > 0 && Number(text) === 0) {
      const [mantissa, exponent] = size.toExponential(1).split("e");
      text = `${mantissa}e${Number(exponent)}`.replace("-", MINUS);
    } else {
      const [whole, rest] = text.split(".");
      text = whole.replace(/\B(?=(\d{3})+$)/g, ",") + (rest ? `.${rest}` : "");
    }
    return (value < 0 ? MINUS : "") + text;
  }

  function theme() {
    const button = byId("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      stored.set(root.dataset.theme);
      show();
    });
    system.addEventListener("change", show);
    show();
  }

  function regions() {
    const button = byId("regions");
    if (!button) return;
    button.addEventListener("click", () => {
      const hidden = root.classList.toggle("no-regions");
      button.setAttribute("aria-pressed", String(!hidden));
    });
  }

  function contents() {
    const links = new Map();
    for (const link of document.querySelectorAll(".contents a")) links.set(link.hash.slice(1), link);
    const mark = (entries) => {
      for (const entry of entries) {
        const link = links.get(entry.target.id);
        if (entry.isIntersecting) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    };
    const watcher = new IntersectionObserver(mark, { rootMargin: "-25% 0px -74% 0px" });
    for (const id of links.keys()) watcher.observe(byId(id));
  }

  function copying() {
    const button = byId("copy");
    if (!button) return;
    const source = byId(button.dataset.copies);
    const text = () => [...source.querySelectorAll("p")].map((p) => p.textContent).join("\n\n");
    const select = () => getSelection().selectAllChildren(source);
    button.addEventListener("click", async () => {
      let done = false;
      try {
        await navigator.clipboard.writeText(text());
        done = true;
      } catch {
        // Some browsers give pages opened from disk the old way only.
        select();
        done = document.execCommand("copy");
        if (done) getSelection().removeAllRanges();
      }
      byId("copied").textContent = done ? "Copied." : "The text is selected: copy it with Ctrl+C or ⌘C.";
    });
  }

  function unitTable({ columns, rows, anchors, pageSize }) {
    const table = byId("table");
    if (!table) return;
    const [head, body] = [table.tHead.rows[0], table.tBodies[0]];
    const collator = new Intl.Collator("en", { numeric: true });
    const texts = columns.flatMap((column, i) => (column.kind === "text" || column.kind === "class" ? [i] : []));
    const haystacks = rows.map((row) => texts.map((i) => row[i]).join("\n").toLowerCase());
    const selects = [];
    let order = rows.map((_, i) => i);
    let [page, sorted, direction] = [0, -1, 1];
    let matching = order;

    function named(value) {
      const holder = make("bdi");
      if (Object.hasOwn(anchors, value)) {
        const link = make("a", "", value);
        link.href = `#${anchors[value]}`;
        holder.append(link);
      } else holder.textContent = value;
      return holder;
    }

    function cell(row, column, i) {
      const value = row[i];
      const long = typeof value === "string" && [...value].length > 28 ? " long" : "";
      const node = make(i === 0 ? "th" : "td", column.kind + long);
      if (i === 0) node.scope = "row";
      if (column.kind === "number") {
        node.textContent = number(value, column.digits);
        if (column.low && value !== null) {
          const [low, high] = row.slice(column.low, column.low + 2).map((end) => number(end, column.digits));
          node.append(" ", make("span", "interval", `[${low}, ${high}]`));
        }
      } else if (column.kind === "flag") node.textContent = value === null ? "–" : value ? "● yes" : "○ no";
      else node.append(i === 0 ? named(value) : make("bdi", "", value));
      return node;
    }

    function compare(a, b) {
      const [x, y] = [rows[a][sorted], rows[b][sorted]];
      const [noX, noY] = [x === null || x === "", y === null || y === ""];
      if (noX || noY) return noX - noY || a - b; // missing values stay last
      return direction * (typeof x === "string" ? collator.compare(x, y) : x - y) || a - b;
    }

    function show() {
      const pages = Math.max(1, Math.ceil(matching.length / pageSize));
      page = Math.min(Math.max(page, 0), pages - 1);
      const start = page * pageSize;
      const visible = matching.slice(start, start + pageSize);
      const lines = visible.map((index) => {
        const line = make("tr");
        line.append(...columns.map((column, i) => cell(rows[index], column, i)));
        return line;
      });
      body.replaceChildren(...lines);
      const count = (n) => number(n, 0);
      const range = visible.length ? `Rows ${count(start + 1)}–${count(start + visible.length)} of ` : "";
      const all = matching.length === rows.length ? (rows.length > 1 ? " units" : " unit") : ` matching units (${count(rows.length)} in all)`;
      const way = direction > 0 ? "ascending" : "descending";
      const sorting = sorted < 0 ? "" : `, sorted by ${columns[sorted].label}, ${way}`;
      byId("shown").textContent = `${range}${visible.length ? count(matching.length) : "No"}${all}${sorting}.`;
      byId("position").textContent = `Page ${count(page + 1)} of ${count(pages)}`;
      for (const id of ["first", "previous"]) byId(id).setAttribute("aria-disabled", String(page === 0));
      for (const id of ["next", "last"]) byId(id).setAttribute("aria-disabled", String(page === pages - 1));
    }

    function refresh() {
      const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = selects.filter(([, select]) => select.value !== "");
      matching = order.filter(
        (i) =>
          words.every((word) => haystacks[i].includes(word)) &&
          wanted.every(([column, select]) => String(rows[i][column]) === select.value.slice(1)),
      );
      page = 0;
      show();
    }

    function sort(i) {
      const falling = columns[i].kind === "number" || columns[i].kind === "flag";
      direction = sorted === i ? -direction : falling ? -1 : 1;
      sorted = i;
      [...head.cells].forEach((th, j) => {
        const state = j !== i ? "none" : direction > 0 ? "ascending" : "descending";
        th.setAttribute("aria-sort", state);
      });
      order = order.toSorted ? order.toSorted(compare) : [...order].sort(compare);
      refresh();
    }

    function choice(column, i) {
      const field = make("span", "field");
      const label = make("label", "", column.label);
      const select = make("select");
      select.id = label.htmlFor = `choice-${i}`;
      select.append(new Option("all", ""));
      const values = [...new Set(rows.map((row) => row[i]))].filter((value) => value !== null && value !== "");
      values.sort((a, b) => (typeof a === "string" ? collator.compare(a, b) : b - a));
      // The dot keeps apart a value that is an empty or odd text and "all".
      for (const value of values) {
        select.append(new Option(column.kind === "flag" ? (value ? "yes" : "no") : value, `.${value}`));
      }
      select.addEventListener("change", refresh);
      field.append(label, select);
      byId("choices").append(field);
      selects.push([i, select]);
    }

    [...head.cells].forEach((th, i) => {
      const button = make("button", "sort");
      button.type = "button";
      button.append(...th.childNodes);
      th.append(button);
      th.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(i));
    });
    columns.forEach((column, i) => column.choice && choice(column, i));
    byId("search").addEventListener("input", refresh);
    byId("reset").addEventListener("click", () => {
      byId("search").value = "";
      for (const [, select] of selects) select.value = "";
      refresh();
    });
    const turn = (id, target) =>
      byId(id).addEventListener("click", () => {
        page = target();
        show();
      });
    turn("first", () => 0);
    turn("previous", () => page - 1);
    turn("next", () => page + 1);
    turn("last", () => Infinity);
    show();
  }

  document.addEventListener("DOMContentLoaded", () => {
    theme();
    regions();
    contents();
    copying();
    unitTable(JSON.parse(byId("data").textContent));
  });
})();
