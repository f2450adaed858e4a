// Back from a provider. If this tab kept a login for this moment, it goes on there; else the page may have been opened
// for a stage. Stands after parts.js.
(() => {
  let kept = null;
  try {
    kept = JSON.parse(sessionStorage.getItem("eigenserver.login") ?? "null");
  } catch {
    // There is no such store here: then nothing was kept either.
  }
  if (kept !== null && new URL(kept.address).origin === location.origin) location.replace(kept.address);
  else tellApp();
})();
