// Writes each rectangle without a class as a picture and its label, as `overread train` reads them. Inside, all that has
// a class below has to be outlined. For QuPath 0.3 and 0.4: Automate > Show script editor; `Run for project` does all slides.
import java.awt.Color
import java.awt.image.BufferedImage
import javax.imageio.ImageIO
import qupath.lib.common.GeneralTools
import qupath.lib.regions.RegionRequest
import qupath.lib.roi.RectangleROI

// Where dataset.json lies, and what it says; 255 is not learnt from. Of two outlines the later class lies on top.
def folder = new File('/path/to/Dataset601_Slides')
double umPerPx = 1.0
def values = ['Tumor': 1, 'Ignore*': 255]

def server = getCurrentImageData().getServer()
def slide = GeneralTools.getNameWithoutExtension(server.getMetadata().getName())
double downsample = umPerPx / server.getPixelCalibration().getAveragedPixelSizeMicrons()
if (!(downsample > 0))
    throw new IllegalStateException(slide + ' does not say how large its pixels are: set them under Image')

getAnnotationObjects().findAll { it.getPathClass() == null && it.getROI() instanceof RectangleROI }.each { patch ->
    def request = RegionRequest.createInstance(server.getPath(), downsample, patch.getROI())
    def seen = server.readBufferedImage(request)
    def picture = new BufferedImage(seen.getWidth(), seen.getHeight(), BufferedImage.TYPE_INT_RGB)
    picture.createGraphics().drawImage(seen, 0, 0, null)
    def label = new BufferedImage(seen.getWidth(), seen.getHeight(), BufferedImage.TYPE_BYTE_GRAY)
    def drawing = label.createGraphics()
    drawing.scale(1 / downsample, 1 / downsample)
    drawing.translate(-request.getX(), -request.getY())
    values.each { pathClass, value ->
        drawing.setColor(new Color(value, value, value))
        def outlined = getAnnotationObjects().findAll { it.getPathClass()?.toString() == pathClass }
        outlined.each { drawing.fill(it.getROI().getShape()) }
    }
    // By this name `patients.csv` finds the slide.
    def name = slide + '-patch-' + [request.getX(), request.getY(), request.getWidth(), request.getHeight()].join('_')
    new File(folder, 'imagesTr').mkdirs()
    new File(folder, 'labelsTr').mkdirs()
    ImageIO.write(picture, 'png', new File(folder, 'imagesTr/' + name + '_0000.png'))
    ImageIO.write(label, 'png', new File(folder, 'labelsTr/' + name + '.png'))
}
