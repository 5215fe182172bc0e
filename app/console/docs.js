// Starts Swagger UI; a file of its own, since the page's policy runs no script that stands in the page.

const root = document.documentElement.dataset.root ?? "";

window.ui = SwaggerUIBundle({
  url: `${root}/openapi.json`,
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  layout: "BaseLayout",
  showExtensions: true,
  showCommonExtensions: true,
});
