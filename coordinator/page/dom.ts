/** Making and updating elements. Text goes in as text alone: nothing here, or on this page, parses markup. */

type Child = Node | string | null;

interface Attributes {
  readonly [name: string]: string | number | boolean | undefined;
}

/** An element with attributes (true: present, false and undefined: absent) and children. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  setAttributes(element, attributes);
  for (const child of children) if (child !== null) element.append(child);
  return element;
}

export function setAttributes(element: Element, attributes: Attributes): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) element.removeAttribute(name);
    else {
      const text = value === true ? "" : String(value);
      if (element.getAttribute(name) !== text) element.setAttribute(name, text);
    }
  }
}

/** Text of an element, touched only where it differs, so that selections and screen readers are left alone. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** An element of index.html. */
export function byId(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`no element #${id}`);
  return element;
}

/** A part of the page that shows one kind of data. */
export interface View<T> {
  readonly element: HTMLElement;
  update(value: T): void;
}

/**
 * A list of elements that follows a list of data: an item keeps its element as long as its key is there, and with it
 * focus and selection.
 */
export class KeyedList<T> {
  readonly #parent: Element;
  readonly #keyOf: (item: T) => string;
  readonly #create: (item: T) => View<T>;
  readonly #views = new Map<string, View<T>>();

  constructor(parent: Element, keyOf: (item: T) => string, create: (item: T) => View<T>) {
    this.#parent = parent;
    this.#keyOf = keyOf;
    this.#create = create;
  }

  update(items: readonly T[]): void {
    const keys = new Set(items.map((item) => this.#keyOf(item)));
    for (const [key, view] of this.#views) {
      if (keys.has(key)) continue;
      view.element.remove();
      this.#views.delete(key);
    }
    let next: Element | null = this.#parent.firstElementChild;
    for (const item of items) {
      const key = this.#keyOf(item);
      let view = this.#views.get(key);
      if (view === undefined) {
        view = this.#create(item);
        this.#views.set(key, view);
      }
      view.update(item);
      if (view.element === next) next = next.nextElementSibling;
      else this.#parent.insertBefore(view.element, next);
    }
  }
}

/** A table with a caption, and column headers with their scope. */
export function table(
  caption: string,
  columns: readonly { readonly title: string; readonly numeric?: boolean }[],
): { readonly element: HTMLTableElement; readonly body: HTMLTableSectionElement } {
  const body = el("tbody");
  const head = columns.map(({ title, numeric }) =>
    el("th", { scope: "col", class: numeric === true ? "num" : undefined }, title),
  );
  const element = el(
    "table",
    {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...head)),
    body,
  );
  return { element, body };
}

/** A section with a heading of its own. */
export function panel(
  title: string,
  id: string,
  ...children: readonly Child[]
): { readonly element: HTMLElement; readonly head: HTMLElement } {
  const head = el("div", { class: "panel-head" }, el("h3", { id: `${id}-title` }, title));
  const element = el(
    "section",
    { class: `panel ${id}`, "aria-labelledby": `${id}-title` },
    head,
    ...children,
  );
  return { element, head };
}
