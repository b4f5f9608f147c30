"""A DICOMweb server as the studies: series come in as volumes, accepted labels go back as DICOM SEG."""
