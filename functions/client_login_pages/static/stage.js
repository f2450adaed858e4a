// A stage of User-Interactive Authentication is done. Stands after parts.js.
tellApp();
