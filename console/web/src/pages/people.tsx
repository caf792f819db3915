import { useState } from "preact/hooks";

import { seconds, time } from "../core/format";
import type { Account, Lock, Permission, Role, TokenRecord } from "../core/model";
import { statements, type Statement } from "../core/rights";
import { allowed, api, live, session } from "../core/state";
import { t, tag, type Word } from "../core/words";
import { ask, Copy, Empty, Loading, Panel, permittedOr, useLoad } from "../ui/parts";
import { Audit } from "./audit";

export function People() {
  if (session.access === "open") return <Open />;
  return (
    <>
      <h1>{t("people")}</h1>
      <div class="columns">
        <div>
          <Panel title={`${t("you")}: ${session.account || "–"}`}>
            <p>{t("youMay")}:</p>
            <Rights permissions={session.permissions} />
          </Panel>
          <Roles />
        </div>
        <div>
          <Accounts />
          <Locks />
        </div>
      </div>
      <Audit />
    </>
  );
}

function Open() {
  const lines = [
    "muster init --dir site",
    "muster standalone --rbac-enable --rbac-private-key site/private.key --rbac-root-password @site/root-password",
  ];
  return (
    <Empty>
      <h1>{t("openTitle")}</h1>
      <p>{t("openLead")}</p>
      <pre>{lines.join("\n")}</pre>
      <div>
        <Copy text={lines.join("\n")} />
      </div>
    </Empty>
  );
}

const VERBS: Record<string, Word> = { get: "vGet", create: "vCreate", update: "vUpdate", delete: "vDelete" };
const TYPES: Record<string, Word> = {
  service: "rService",
  schema: "rSchema",
  account: "rAccount",
  role: "rRole",
  ops: "rOps",
};
const LABELS: Record<string, Word> = { environment: "lEnvironment", appId: "lAppId", serviceName: "lServiceName" };

/** One statement of a role as a sentence. Words that the registry does not know are shown as they are. */
function inWords({ verbs, type, labels }: Statement): string {
  const named = verbs.map((verb) => {
    const word = VERBS[verb];
    return verb === "*" ? t("mayAll") : word ? t(word) : verb;
  });
  const type_ = TYPES[type];
  const where = labels.map(([name, value]) => {
    const word = LABELS[name];
    return word ? t(word, value || t("defaultEnv")) : `${name}=${value}`;
  });
  const all = [named.join(", "), type_ ? t(type_) : type];
  if (where.length > 0) all.push(t("whereLabels", where.join(t("and"))));
  return all.join(" ");
}

function Rights({ permissions }: { permissions: Permission[] | undefined }) {
  const all = statements(permissions);
  if (all.length === 0) return <p class="quiet">{t("rightNothing")}</p>;
  return (
    <ul>
      {[...new Set(all.map(inWords))].map((text) => (
        <li key={text}>{text}</li>
      ))}
    </ul>
  );
}

function Roles() {
  const permitted = allowed("get", "role");
  const loaded = useLoad(() => permittedOr<{ data?: Role[] }>(permitted, "/v4/roles"), "roles");
  return (
    <Panel title={t("roles")}>
      {!permitted ? (
        <Empty>{t("noRight")}</Empty>
      ) : (
        <Loading loaded={loaded}>
          {({ data = [] }) => (
            <>
              {data.map((role) => (
                <details key={role.name}>
                  <summary>
                    <b>{role.name}</b>
                  </summary>
                  <Rights permissions={role.perms} />
                </details>
              ))}
            </>
          )}
        </Loading>
      )}
    </Panel>
  );
}

function Accounts() {
  const permitted = allowed("get", "account");
  const loaded = useLoad(() => permittedOr<{ data?: Account[] }>(permitted, "/v4/accounts"), "accounts");
  return (
    <Panel title={t("accounts")}>
      {!permitted ? (
        <Empty>{t("noRight")}</Empty>
      ) : (
        <Loading loaded={loaded}>
          {({ data = [] }) => (
            <>
              {data.map((account) => (
                <One key={account.name} account={account} reload={loaded.reload} />
              ))}
            </>
          )}
        </Loading>
      )}
    </Panel>
  );
}

function One({ account, reload }: { account: Account; reload: () => void }) {
  const [open, setOpen] = useState(false);
  const { name } = account;
  const path = `/v4/accounts/${encodeURIComponent(name)}`;
  const inactive = account.status === "inactive";
  // The registry refuses these for the own account and for root.
  const mine = name === session.account || name === "root";
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <b>{name}</b> <span class="quiet">{account.roles?.join(", ")}</span>{" "}
        {inactive && <span class="status down">{t("inactive")}</span>}
      </summary>
      <dl class="facts">
        <div>
          <dt>{t("roles")}</dt>
          <dd>{account.roles?.join(", ") || "–"}</dd>
        </div>
        <div>
          <dt>{t("status")}</dt>
          <dd>{t(inactive ? "inactive" : "active")}</dd>
        </div>
        <div>
          <dt>{t("tenants")}</dt>
          <dd>{account.tenants?.join(", ") || t("everyTenant")}</dd>
        </div>
        <div>
          <dt>{t("changedAt")}</dt>
          <dd>{time(seconds(account.updateTime), tag())}</dd>
        </div>
      </dl>
      {allowed("update", "account") && (
        <div class="buttons small">
          <button
            type="button"
            class="small"
            disabled={mine || !live.planes}
            onClick={() =>
              ask({
                question: t(inactive ? "activateSure" : "deactivateSure", name),
                method: "PUT",
                path,
                body: {
                  roles: account.roles ?? [],
                  status: inactive ? "active" : "inactive",
                  ...(account.tenants ? { tenants: account.tenants } : {}),
                },
                command: ["account", "update", name, "--status", inactive ? "active" : "inactive"],
                done: reload,
              })
            }
          >
            {t(inactive ? "activate" : "deactivate")}
          </button>
          <button
            type="button"
            class="small"
            disabled={!live.planes}
            onClick={() =>
              ask({
                question: t("endSessionsSure", name),
                method: "DELETE",
                path: `${path}/sessions`,
                command: ["account", "sessions", "end", name],
              })
            }
          >
            {t("endSessions")}
          </button>
        </div>
      )}
      {open && <Tokens name={name} path={path} />}
    </details>
  );
}

function Tokens({ name, path }: { name: string; path: string }) {
  const loaded = useLoad(() => api.get<{ data?: TokenRecord[] }>(`${path}/tokens`), path);
  return (
    <>
      <h3>{t("tokens")}</h3>
      <Loading loaded={loaded}>
        {({ data = [] }) =>
          data.length === 0 ? (
            <p class="quiet">{t("noTokens")}</p>
          ) : (
            <ul class="plain-list">
              {data.map((token) => (
                <li key={token.id}>
                  <span class="mono">{token.id}</span> {token.description}{" "}
                  <span class="quiet">
                    {t("expires")} {time(seconds(token.exp), tag())}
                  </span>{" "}
                  {allowed("update", "account") && (
                    <button
                      type="button"
                      class="small"
                      disabled={!live.planes}
                      onClick={() =>
                        ask({
                          question: t("revokeSure", token.description || token.id, name),
                          method: "DELETE",
                          path: `${path}/tokens/${encodeURIComponent(token.id)}`,
                          command: ["token", "revoke", name, token.id],
                          done: loaded.reload,
                        })
                      }
                    >
                      {t("revoke")}
                    </button>
                  )}
                </li>
              ))}
            </ul>
          )
        }
      </Loading>
    </>
  );
}

function Locks() {
  const permitted = allowed("get", "account");
  const loaded = useLoad(() => permittedOr<{ data?: Lock[] }>(permitted, "/v4/account-locks"), "locks");
  return (
    <Panel title={t("locks")}>
      {!permitted ? (
        <Empty>{t("noRight")}</Empty>
      ) : (
        <Loading loaded={loaded}>
          {({ data = [] }) =>
            data.length === 0 ? (
              <Empty>{t("noLocks")}</Empty>
            ) : (
              <ul class="plain-list">
                {data.map((lock) => (
                  <li key={lock.key}>
                    <b>{lock.key}</b> {t(lock.status === "banned" ? "lockBanned" : "lockAttempted")}{" "}
                    <span class="quiet">{t("lockedUntil", time(seconds(lock.releaseAt), tag()))}</span>{" "}
                    {allowed("update", "account") && (
                      <button
                        type="button"
                        class="small"
                        disabled={!live.planes}
                        onClick={() =>
                          ask({
                            question: t("unlockSure", lock.key),
                            method: "DELETE",
                            path: `/v4/account-locks/${encodeURIComponent(lock.key)}`,
                            command: ["account", "unlock", lock.key],
                            done: loaded.reload,
                          })
                        }
                      >
                        {t("unlock")}
                      </button>
                    )}
                  </li>
                ))}
              </ul>
            )
          }
        </Loading>
      )}
    </Panel>
  );
}
