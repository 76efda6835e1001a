/** Enough of the shell's grammar for commands in documents: what programs a script calls, with which words. */

const KEYWORDS = new Set(["do", "then", "else", "if", "while", "until", "!", "time", "{", "("]);
const WITHOUT_COMMAND = new Set(["for", "done", "fi", "}", ")", "case", "esac"]);

/** The commands of a script, each as its words; without assignments, redirections, comments, `sudo`, `exec` and here-documents. */
export function commandsOf(script: string): string[][] {
  return pieces(withoutHereDocuments(script.replaceAll("\\\n", " ")))
    .map(stripped)
    .filter((words) => words.length > 0);
}

function stripped(words: readonly string[]): string[] {
  let rest = [...words];
  for (;;) {
    const [first] = rest;
    if (first === undefined || WITHOUT_COMMAND.has(first)) return [];
    if (KEYWORDS.has(first) || first === "sudo" || first === "exec" || /^\w+=/.test(first))
      rest = rest.slice(1);
    else return rest;
  }
}

function withoutHereDocuments(script: string): string {
  const kept: string[] = [];
  let end: string | undefined;
  for (const line of script.split("\n")) {
    if (end !== undefined) {
      if (line.trim() === end) end = undefined;
      continue;
    }
    kept.push(line);
    end = /<<-?\s*(["']?)(\w+)\1/.exec(line)?.[2];
  }
  return kept.join("\n");
}

/** Words, split at the operators that end a command. Words inside of `$(...)` come as commands of their own. */
function pieces(script: string): string[][] {
  const commands: string[][] = [];
  let words: string[] = [];
  let skipWord = false;
  let at = 0;
  const push = (word: string) => {
    if (!skipWord) words.push(word);
    skipWord = false;
  };
  while (at < script.length) {
    const rest = script.slice(at);
    const blank = /^[ \t]+/.exec(rest)?.[0] ?? /^#.*/.exec(rest)?.[0];
    if (blank !== undefined) {
      at += blank.length;
      continue;
    }
    const operator = /^(?:&&|\|\||;;|[\n;|]|&(?!>))/.exec(rest)?.[0];
    if (operator !== undefined) {
      commands.push(words);
      words = [];
      skipWord = false;
      at += operator.length;
      continue;
    }
    const redirection = /^(?:\d*|&)(?:>>|>&|<<<|<<-?|<&|>|<)/.exec(rest)?.[0];
    if (redirection !== undefined) {
      skipWord = true;
      at += redirection.length;
      continue;
    }
    const { word, length, inner } = wordAt(rest);
    push(word);
    for (const script of inner) commands.push(...pieces(script));
    at += length;
  }
  commands.push(words);
  return commands;
}

/** The word at the start of `text`, unquoted, and the scripts of its command substitutions. */
function wordAt(text: string): { word: string; length: number; inner: string[] } {
  const inner: string[] = [];
  let word = "";
  let at = 0;
  let quote: string | undefined;
  while (at < text.length) {
    const char = text[at] ?? "";
    if (quote === undefined && /[\s;|&<>]/.test(char)) break;
    if (char === "\\" && quote !== "'") {
      word += text[at + 1] ?? "";
      at += 2;
    } else if (quote !== "'" && text.startsWith("$(", at)) {
      const script = balanced(text.slice(at + 2));
      inner.push(script);
      word += `$(${script})`;
      at += script.length + 3;
    } else if (char === quote) {
      quote = undefined;
      at++;
    } else if (quote === undefined && (char === "'" || char === '"')) {
      quote = char;
      at++;
    } else {
      word += char;
      at++;
    }
  }
  return { word, length: Math.max(at, 1), inner };
}

/** `text` up to the parenthesis that closes one opened before it. */
function balanced(text: string): string {
  let depth = 1;
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "(") depth++;
    if (text[at] === ")" && --depth === 0) return text.slice(0, at);
  }
  return text;
}
