// Our own elements by their tags, which no comment in JavaScript can tell the type checker.
import type { CallDetails } from "../../app/console/call_details.js";
import type { TimeChart } from "../../app/console/chart.js";
import type { CallResult } from "../../app/console/result.js";
import type { RunningCalls } from "../../app/console/running.js";
import type { SchemaForm } from "../../app/console/schema_form.js";
import type { CallSnippets } from "../../app/console/snippets.js";

declare global {
  interface HTMLElementTagNameMap {
    "call-details": CallDetails;
    "call-result": CallResult;
    "call-snippets": CallSnippets;
    "running-calls": RunningCalls;
    "schema-form": SchemaForm;
    "time-chart": TimeChart;
  }
}
