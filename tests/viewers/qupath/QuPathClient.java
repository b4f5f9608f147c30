import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.xml.parsers.DocumentBuilderFactory;
import javax.xml.transform.OutputKeys;
import javax.xml.transform.Transformer;
import javax.xml.transform.TransformerFactory;
import javax.xml.transform.dom.DOMSource;
import javax.xml.transform.stream.StreamResult;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.Node;
import org.w3c.dom.NodeList;

/**
 * Speaks to the server as QuPath's MONAI Label extension does: the same client class, HTTP version, headers, bodies and
 * order of requests, each command as one click in its menu. JSON goes without a Content-Type, multipart parts carry the
 * type that Java probes, answers are parsed by Java's own XML parser.
 *
 * One command a line on standard input, fields separated by tabs; the answer is lines on standard output, the last one a
 * single dot. A refused request answers `refused STATUS BODY`.
 *
 *     info
 *     next       STRATEGY IMAGE WIDTH,HEIGHT PATCH_WIDTH,PATCH_HEIGHT      IMAGE may be empty: no image is open
 *     annotate   MODEL IMAGE X,Y,W,H POSITIVE NEGATIVE                    points: `x,y x,y`
 *     upload     MODEL PICTURE_FILE POSITIVE NEGATIVE                     an image that the server does not have
 *     slide      IMAGE OBJECTS_FILE                                      submit; "No": for the whole slide
 *     patch      IMAGE X,Y,W,H PICTURE_FILE OBJECTS_FILE                 submit; "Yes": for the selected rectangle
 *     train      MODEL
 *
 * An objects file has one object a line: `CLASS|#rrggbb|x,y x,y …`.
 */
public class QuPathClient {
    private final String server;
    private final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    QuPathClient(String server) {
        this.server = server;
    }

    public static void main(String[] arguments) throws Exception {
        new QuPathClient(arguments[0]).listen();
    }

    private void listen() throws Exception {
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        String line;
        while ((line = lines.readLine()) != null) {
            String[] words = line.split("\t", -1);
            try {
                run(words[0], Arrays.copyOfRange(words, 1, words.length));
            } catch (Refused refused) {
                out.println("refused " + refused.status + " " + refused.getMessage().replace("\n", " "));
            } catch (Exception error) {
                out.println("failed " + error);
            }
            out.println(".");
        }
    }

    private void run(String command, String[] words) throws Exception {
        switch (command) {
            case "info" -> info();
            case "next" -> next(words[0], words[1], numbers(words[2]), numbers(words[3]));
            case "annotate" -> annotate(words[0], words[1], numbers(words[2]), points(words[3]), points(words[4]));
            case "upload" -> upload(words[0], Path.of(words[1]), points(words[2]), points(words[3]));
            case "slide" -> submitSlide(words[0], Path.of(words[1]));
            case "patch" -> submitPatch(words[0], numbers(words[1]), Path.of(words[2]), Path.of(words[3]));
            case "train" -> train(words[0]);
            default -> throw new IllegalArgumentException(command);
        }
    }

    // -- what the menu entries do --------------------------------------------------------------------------------

    private String info() throws Exception {
        String answer = request("GET", "/info/", null);
        out.println("info " + answer.replace("\n", " "));
        return answer;
    }

    private void next(String strategy, String image, int[] imageSize, int[] patchSize) throws Exception {
        info();
        String body = "{\"image\": \"" + image + "\", \"patch_size\": " + Arrays.toString(patchSize)
                + ",\"image_size\": " + Arrays.toString(imageSize) + "}";
        String answer = request("POST", "/activelearning/" + encoded(strategy), body);
        out.println("sample " + answer.replace("\n", " "));
        Matcher box = Pattern.compile("\"bbox\":\\s*\\[([^\\]]*)\\]").matcher(answer);
        if (box.find()) {
            // Gson fills int[]: a number with a fraction is an error there as here.
            out.println("bbox " + Arrays.toString(numbers(box.group(1))));
        }
    }

    private void annotate(String model, String image, int[] box, List<int[]> positive, List<int[]> negative)
            throws Exception {
        info();
        boolean isThere = exists(image);
        out.println("exists " + isThere);
        String uri = "/infer/wsi/" + encoded(model) + "?output=asap&image=" + encoded(image);
        draw(request("POST", uri, inference(box, positive, negative)));
    }

    private void upload(String model, Path picture, List<int[]> positive, List<int[]> negative) throws Exception {
        info();
        String name = picture.getFileName().toString();
        out.println("exists " + exists(name.substring(0, name.lastIndexOf('.'))));
        var files = new LinkedHashMap<String, Path>();
        files.put("file", picture);
        var fields = new LinkedHashMap<String, String>();
        fields.put("wsi", inference(new int[4], positive, negative));
        draw(multipart("POST", "/infer/wsi_v2/" + encoded(model) + "?output=asap", files, fields));
    }

    private void submitSlide(String image, Path objects) throws Exception {
        out.println("exists " + exists(image));
        saveLabel(image, annotations(image, objects, new int[4]));
    }

    private void submitPatch(String image, int[] box, Path picture, Path objects) throws Exception {
        out.println("exists " + exists(image));
        Path xml = annotations(image, objects, box);
        String patch = image + String.format("-patch-%d_%d_%d_%d", box[0], box[1], box[2], box[3]);
        var files = new LinkedHashMap<String, Path>();
        files.put("file", picture);
        String answer = multipart("PUT", "/datastore/image?image=" + encoded(patch), files, Map.of("params", "{}"));
        out.println("saved " + answer.replace("\n", " "));
        Matcher id = Pattern.compile("\"image\":\\s*\"([^\"]*)\"").matcher(answer);
        if (!id.find()) {
            throw new IOException("the answer names no image");
        }
        saveLabel(id.group(1), xml);
    }

    private void saveLabel(String image, Path xml) throws Exception {
        var files = new LinkedHashMap<String, Path>();
        files.put("label", xml);
        String uri = "/datastore/label?image=" + encoded(image);
        out.println("saved " + multipart("PUT", uri, files, Map.of("params", "{}")).replace("\n", " "));
        Files.delete(xml);
    }

    private void train(String model) throws Exception {
        info();
        out.println("training " + request("POST", "/train/" + encoded(model), "{}").replace("\n", " "));
    }

    // -- what is drawn and read from the screen ------------------------------------------------------------------

    private void draw(String answer) throws Exception {
        var parser = DocumentBuilderFactory.newInstance().newDocumentBuilder();
        Document document = parser.parse(new ByteArrayInputStream(answer.getBytes(StandardCharsets.UTF_8)));
        NodeList found = document.getElementsByTagName("Annotation");
        for (int i = 0; i < found.getLength(); i++) {
            Node annotation = found.item(i);
            String name = annotation.getAttributes().getNamedItem("Name").getTextContent();
            Node colour = annotation.getAttributes().getNamedItem("Color");
            int rgb = colour == null ? 0xff0000 : Integer.parseInt(colour.getTextContent().replaceFirst("#", ""), 16);
            NodeList children = annotation.getChildNodes();
            for (int j = 0; j < children.getLength(); j++) {
                if (children.item(j).getNodeType() != Node.ELEMENT_NODE) {
                    continue;
                }
                var ring = new ArrayList<String>();
                NodeList coordinates = children.item(j).getChildNodes();
                for (int k = 0; k < coordinates.getLength(); k++) {
                    var place = coordinates.item(k).getAttributes();
                    if (place != null) {
                        double x = Double.parseDouble(place.getNamedItem("X").getTextContent());
                        double y = Double.parseDouble(place.getNamedItem("Y").getTextContent());
                        ring.add(x + "," + y);
                    }
                }
                if (!ring.isEmpty()) {
                    out.println("drawn " + name + "|" + String.format("#%06x", rgb) + "|" + String.join(" ", ring));
                }
            }
        }
    }

    private Path annotations(String image, Path objects, int[] box) throws Exception {
        Document document = DocumentBuilderFactory.newInstance().newDocumentBuilder().newDocument();
        Element root = document.createElement("ASAP_Annotations");
        document.appendChild(root);
        Element list = document.createElement("Annotations");
        list.setAttribute("Name", "");
        list.setAttribute("Description", "");
        String[] names = {"X", "Y", "W", "H"};
        for (int i = 0; i < 4; i++) {
            list.setAttribute(names[i], String.valueOf(box[i]));
        }
        root.appendChild(list);
        var groups = new LinkedHashSet<String>();
        for (String line : Files.readAllLines(objects)) {
            String[] parts = line.split("\\|");
            groups.add(parts[0] + "|" + parts[1]);
            Element annotation = document.createElement("Annotation");
            annotation.setAttribute("Name", parts[0]);
            annotation.setAttribute("Type", "Polygon");
            annotation.setAttribute("PartOfGroup", parts[0]);
            annotation.setAttribute("Color", parts[1]);
            list.appendChild(annotation);
            Element coordinates = document.createElement("Coordinates");
            annotation.appendChild(coordinates);
            int order = 0;
            for (int[] point : points(parts[2])) {
                Element coordinate = document.createElement("Coordinate");
                coordinate.setAttribute("Order", String.valueOf(order++));
                coordinate.setAttribute("X", String.valueOf(point[0] - box[0]));
                coordinate.setAttribute("Y", String.valueOf(point[1] - box[1]));
                coordinates.appendChild(coordinate);
            }
        }
        Element groupList = document.createElement("AnnotationGroups");
        root.appendChild(groupList);
        for (String group : groups) {
            Element element = document.createElement("Group");
            element.setAttribute("Name", group.split("\\|")[0]);
            element.setAttribute("PartOfGroup", "None");
            element.setAttribute("Color", group.split("\\|")[1]);
            groupList.appendChild(element);
        }
        Path file = Files.createTempFile(image, ".xml");
        Transformer transformer = TransformerFactory.newInstance().newTransformer();
        transformer.setOutputProperty(OutputKeys.INDENT, "yes");
        try (var stream = Files.newOutputStream(file)) {
            transformer.transform(new DOMSource(document), new StreamResult(stream));
        }
        return file;
    }

    private static String inference(int[] box, List<int[]> positive, List<int[]> negative) {
        return "{\"level\":0,\"location\":[" + box[0] + "," + box[1] + "],\"size\":[" + box[2] + "," + box[3]
                + "],\"tile_size\":[1024,1024],\"min_poly_area\":30,\"params\":{\"foreground\":" + json(positive)
                + ",\"background\":" + json(negative) + ",\"max_workers\":1}}";
    }

    private static String json(List<int[]> points) {
        var parts = new ArrayList<String>();
        for (int[] point : points) {
            parts.add("[" + point[0] + "," + point[1] + "]");
        }
        return "[" + String.join(",", parts) + "]";
    }

    // -- HTTP ----------------------------------------------------------------------------------------------------

    private boolean exists(String image) throws InterruptedException {
        try {
            request("HEAD", "/datastore/image?image=" + encoded(image), null);
            return true;
        } catch (IOException refused) {
            return false;
        }
    }

    /** Asked before every request, with a client of its own. */
    private void askWhetherToLogIn() throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder().version(HttpClient.Version.HTTP_1_1).GET()
                .uri(URI.create(server + "/auth/")).build();
        var response = HttpClient.newBuilder().build().send(request, BodyHandlers.ofString());
        if (response.statusCode() == 200 && response.body().contains("\"enabled\":true")) {
            throw new Refused(401, "the server wants a login");
        }
    }

    private String request(String method, String uri, String body) throws IOException, InterruptedException {
        BodyPublisher content = body == null || body.isEmpty() ? BodyPublishers.noBody() : BodyPublishers.ofString(body);
        return send(HttpRequest.newBuilder().version(HttpClient.Version.HTTP_1_1).method(method, content)
                .uri(URI.create(server + uri)));
    }

    private String multipart(String method, String uri, Map<String, Path> files, Map<String, String> fields)
            throws IOException, InterruptedException {
        String boundary = Long.toUnsignedString(System.nanoTime()) + "31415926535897932384";
        var body = new ByteArrayOutputStream();
        for (var file : files.entrySet()) {
            String type = Files.probeContentType(file.getValue());
            body.writeBytes(("--" + boundary + "\r\nContent-Disposition: form-data; name=\"" + file.getKey()
                    + "\"; filename=\"" + file.getValue().getFileName() + "\"\r\nContent-Type: " + type + "\r\n\r\n")
                    .getBytes(StandardCharsets.UTF_8));
            body.writeBytes(Files.readAllBytes(file.getValue()));
            body.writeBytes("\r\n".getBytes(StandardCharsets.UTF_8));
        }
        for (var field : fields.entrySet()) {
            body.writeBytes(("--" + boundary + "\r\nContent-Disposition: form-data; name=\"" + field.getKey()
                    + "\"\r\n\r\n" + field.getValue() + "\r\n").getBytes(StandardCharsets.UTF_8));
        }
        body.writeBytes(("--" + boundary + "--").getBytes(StandardCharsets.UTF_8));
        return send(HttpRequest.newBuilder().version(HttpClient.Version.HTTP_1_1)
                .header("Content-Type", "multipart/form-data; boundary=" + boundary)
                .method(method, BodyPublishers.ofByteArray(body.toByteArray())).uri(URI.create(server + uri)));
    }

    private String send(HttpRequest.Builder builder) throws IOException, InterruptedException {
        askWhetherToLogIn();
        var response = HttpClient.newBuilder().build().send(builder.build(), BodyHandlers.ofString());
        if (response.statusCode() != 200) {
            throw new Refused(response.statusCode(), response.body());
        }
        return response.body();
    }

    private static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8);
    }

    private static int[] numbers(String text) {
        String[] parts = text.trim().split("\\s*,\\s*");
        int[] found = new int[parts.length];
        for (int i = 0; i < parts.length; i++) {
            found[i] = Integer.parseInt(parts[i]);
        }
        return found;
    }

    private static List<int[]> points(String text) {
        var found = new ArrayList<int[]>();
        for (String part : text.trim().split("\\s+")) {
            if (!part.isEmpty()) {
                found.add(numbers(part));
            }
        }
        return found;
    }

    private static class Refused extends IOException {
        private static final long serialVersionUID = 1L;
        final int status;

        Refused(int status, String body) {
            super(body);
            this.status = status;
        }
    }
}
