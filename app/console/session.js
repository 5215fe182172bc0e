// <sign-in>: asks for a key where one is needed, and gives it to the gateway for a session cookie. It keeps no key.

import { ask, asProblem } from "./api.js";
import { h, hWith, prose } from "./dom.js";
import { stream } from "./events.js";

export class SignIn extends HTMLElement {
  #key = hWith("input", {
    type: "password",
    id: "key",
    name: "key",
    required: true,
    autocomplete: "current-password",
    spellcheck: "false",
    placeholder: "sb_…",
  });
  #wrong = hWith("p.wrong", { id: "key-wrong", role: "alert" });
  #button = hWith("button", { type: "submit", class: "primary" }, "Sign in");

  connectedCallback() {
    if (!this.firstChild) {
      this.append(
        hWith(
          "form.card.sign-in",
          { onsubmit: (/** @type {Event} */ event) => void this.#submit(event) },
          h("h1", "Sign in"),
          h("p", "This gateway asks for a key. What you see and do here is what the key's role allows."),
          hWith("label", { for: "key" }, "Key"),
          this.#key,
          this.#wrong,
          this.#button,
          h(
            "p.quiet",
            "No key? An operator makes one: ",
            h("code", "switchboard keys create --role ROLE"),
            ". The role needs ",
            h("code", "console:read"),
            " to see, and ",
            h("code", "console:act"),
            " to cancel calls. The session ends after an hour.",
          ),
        ),
      );
      this.#key.setAttribute("aria-describedby", "key-wrong");
    }
    this.#key.focus();
  }

  /** @param {string} message */
  tell(message) {
    this.#wrong.replaceChildren(h("span", ...prose(message)));
  }

  /** @param {Event} event */
  async #submit(event) {
    event.preventDefault();
    this.#button.disabled = true;
    this.tell("");
    try {
      await ask("POST", "/console/session", { key: this.#key.value.trim() });
      this.#key.value = "";
      dispatchEvent(new Event("signedin"));
    } catch (error) {
      this.tell(asProblem(error).message);
      this.#key.select();
    } finally {
      this.#button.disabled = false;
    }
  }
}

/** End the session, whatever the gateway says to it: who leaves wants nothing left on the screen. */
export async function signOut() {
  try {
    await ask("DELETE", "/console/session");
  } catch (error) {
    asProblem(error);
  }
  location.reload();
}

/** Whether somebody is signed in, rather than let in without a key. */
export const isSignedIn = () => Boolean(stream.hello?.session);

customElements.define("sign-in", SignIn);
