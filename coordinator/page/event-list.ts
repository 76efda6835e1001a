import type { NoteView } from "./api.ts";
import { el, KeyedList, panel, setAttributes, setText, table, type View } from "./dom.ts";
import { formatTime } from "./format.ts";
import { stateBadge } from "./job-list.ts";

/** What happened to a job, newest first. */
export function eventList(): View<readonly NoteView[]> {
  const { element: events, body } = table("Newest first", [
    { title: "Time" },
    { title: "Event" },
    { title: "What" },
  ]);
  const { element } = panel("Events", "events", events);
  const rows = new KeyedList<NoteView>(body, ({ id }) => String(id), eventRow);
  return {
    element,
    update(notes) {
      element.hidden = notes.length === 0;
      rows.update([...notes].reverse());
    },
  };
}

function eventRow(note: NoteView): View<NoteView> {
  const time = el("time", { datetime: note.at }, formatTime(note.at, new Date()));
  let badge: HTMLElement;
  if (note.state === null)
    badge = el("span", { class: "level", "data-level": note.kind }, note.kind);
  else {
    const state = stateBadge();
    state.update(note.state);
    badge = state.element;
  }
  const { rank } = note;
  const saysRank = rank !== null && !note.message.includes(`rank ${rank}`);
  const who = saysRank ? el("span", { class: "event-rank" }, `rank ${rank}`) : null;
  const message = el("span", {}, note.message);
  return {
    element: el(
      "tr",
      {},
      el("td", { class: "event-time" }, time),
      el("td", {}, badge),
      el("td", { class: "event-text" }, who, message),
    ),
    update() {
      setText(message, note.message);
      setAttributes(time, { datetime: note.at });
    },
  };
}
