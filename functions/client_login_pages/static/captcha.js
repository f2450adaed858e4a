// The captcha of a stage: what it answers goes into the form, which is sent then. Stands after parts.js.
(() => {
  const form = document.querySelector("form");
  const box = document.getElementById("captcha");
  box.replaceChildren(); // the word to browsers without scripts
  showCaptcha(JSON.parse(document.getElementById("data").textContent), box, {
    nonce: document.currentScript.nonce,
    solved: (response) => {
      form.elements.response.value = response;
      form.submit();
    },
    failed: () => {
      document.getElementById("problem").textContent = NO_CAPTCHA;
    },
  });
})();
