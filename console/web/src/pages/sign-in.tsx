import { useState } from "preact/hooks";

import { session, signIn } from "../core/state";
import { t } from "../core/words";
import { Dialog } from "../ui/parts";

/** Asks for name and password. It lies over the page: what was shown before a session ended stays. */
export function SignIn() {
  const [name, setName] = useState(session.account);
  const [password, setPassword] = useState("");
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const [round, setRound] = useState(0);
  const send = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await signIn(name, password);
    } catch (failure) {
      setError(failure instanceof Error ? failure.message : String(failure));
      setPassword("");
    } finally {
      setBusy(false);
    }
  };
  return (
    // It cannot be closed: there is nothing to see without an account, so it opens again.
    <Dialog key={round} title={t("signIn")} onClose={() => setRound((before) => before + 1)}>
      <p>{session.ended ? t("sessionEnded") : t("signInLead")}</p>
      <form class="form" onSubmit={(event) => void send(event)}>
        <label>
          {t("name")}
          <input
            name="name"
            autoComplete="username"
            required
            value={name}
            onInput={(event) => setName(event.currentTarget.value)}
          />
        </label>
        <label>
          {t("password")}
          <input
            name="password"
            type="password"
            autoComplete="current-password"
            required
            value={password}
            onInput={(event) => setPassword(event.currentTarget.value)}
          />
        </label>
        {error && (
          <p class="notice bad" role="alert">
            {t("signInFailed", error)}
          </p>
        )}
        <div class="buttons">
          <button class="main" disabled={busy}>
            {t("signIn")}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
