import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Calls a tool as Java's own client does by default: it offers HTTP/2 by an Upgrade with each first request. */
public class HttpClientCalls {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (String zone : new String[] {"CET", "EET"}) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                    .header("content-type", "application/json")
                    .POST(HttpRequest.BodyPublishers.ofString("{\"zone\": \"" + zone + "\"}"))
                    .build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.version() + " " + answer.statusCode() + " " + answer.body());
        }
    }
}
