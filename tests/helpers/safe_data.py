"""A small L2A product as it is downloaded: a .SAFE folder with its manifest, metadata and images in JPEG 2000."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import rasterio
from affine import Affine

from tests.helpers import scenes_data

SIDE_M = 800
CORNER = (300000, 1200000)
FOOTPRINT = (
    "10.850 121.1705 10.850 121.1777 10.843 121.1777 10.843 121.1705 10.850 121.1705 "  # clockwise, as ESA's are
)
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
PSD = "https://psd-14.sentinel2.eo.esa.int/PSD"


def pixels(band: str) -> np.ndarray:
    """Each band has values of its own."""
    n = SIDE_M // (20 if band == "SCL" else scenes_data.BANDS[band])
    if band == "SCL":
        return np.full((n, n), 4, np.uint8)
    return np.random.default_rng([*band.encode()]).integers(1, 12000, (n, n)).astype(np.uint16)


def write_product(
    folder: Path, offsets: list[int] | None, *, baseline: str = "05.00", made: str = "20210105T050000"
) -> Path:
    """Write a product of 80 pixels of 10 m and return its folder; `offsets` are of the 13 bands, None before 04.00."""
    name = f"S2A_MSIL2A_20210105T021051_N{baseline.replace('.', '')}_R103_T51PTT_{made}.SAFE"
    granule = "GRANULE/L2A_T51PTT_A028940_20210105T021054"
    images = []
    for band, step in {**scenes_data.BANDS, "SCL": 20}.items():
        images.append(f"{granule}/IMG_DATA/R{step}m/T51PTT_20210105T021051_{band}_{step}m")
        write_image(folder / name / f"{images[-1]}.jp2", pixels(band), step)
    for path, text in {
        "manifest.safe": _manifest(granule),
        "MTD_MSIL2A.xml": _product(name, images, offsets, baseline, made),
        f"{granule}/MTD_TL.xml": _granule(baseline, made),
    }.items():
        (folder / name / path).write_text(text)
    return folder / name


def write_image(path: Path, values: np.ndarray, step: int, corner: tuple[float, float] = CORNER) -> None:
    """Lossless JPEG 2000."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Affine(step, 0, corner[0], 0, -step, corner[1])
    size = {"width": values.shape[1], "height": values.shape[0], "count": 1, "dtype": values.dtype}
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"}
    with rasterio.open(path, "w", crs="EPSG:32651", transform=place, **size, **lossless) as dataset:
        dataset.write(values, 1)


def _manifest(granule: str) -> str:
    files = {
        "S2_Level-2A_Product_Metadata": "MTD_MSIL2A.xml",
        "INSPIRE_Metadata": "INSPIRE.xml",
        "S2_Level-2A_Datastrip1_Metadata": "DATASTRIP/DS_VGS1_20210105T050000_S20210105T021054/MTD_DS.xml",
        "S2_Level-2A_Tile1_Metadata": f"{granule}/MTD_TL.xml",
    }
    objects = "".join(
        f'<dataObject ID={quoteattr(key)}><byteStream><fileLocation locatorType="URL" href="./{href}"/>'
        "</byteStream></dataObject>"
        for key, href in files.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1">'
        f"<dataObjectSection>{objects}</dataObjectSection></xfdu:XFDU>"
    )


def _product(name: str, images: list[str], offsets: list[int] | None, baseline: str, made: str) -> str:
    listed = "".join(f"<IMAGE_FILE>{image}</IMAGE_FILE>" for image in images)
    added = "".join(f'<BOA_ADD_OFFSET band_id="{i}">{dn}</BOA_ADD_OFFSET>' for i, dn in enumerate(offsets or ()))
    added = f"<BOA_ADD_OFFSET_VALUES_LIST>{added}</BOA_ADD_OFFSET_VALUES_LIST>" if offsets else ""
    strip, tile = (f"S2A_OPER_MSI_L2A_{kind}_{made}" for kind in ("DS_VGS1", "TL_VGS1"))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="{PSD}/User_Product_Level-2A.xsd" {XSI}>
<n1:General_Info>
<Product_Info>
<PRODUCT_START_TIME>2021-01-05T02:10:51.024Z</PRODUCT_START_TIME>
<PRODUCT_URI>{name}</PRODUCT_URI>
<PRODUCT_TYPE>S2MSI2A</PRODUCT_TYPE>
<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
<GENERATION_TIME>2021-01-05T05:00:00.000000Z</GENERATION_TIME>
<Datatake datatakeIdentifier="GS2A_20210105T021051_028940_N{baseline}">
<SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
<DATATAKE_TYPE>INS-NOBS</DATATAKE_TYPE>
<SENSING_ORBIT_NUMBER>103</SENSING_ORBIT_NUMBER>
<SENSING_ORBIT_DIRECTION>DESCENDING</SENSING_ORBIT_DIRECTION>
</Datatake>
<Product_Organisation><Granule_List>
<Granule datastripIdentifier="{strip}_S20210105T021054_N{baseline}"
 granuleIdentifier="{tile}_A028940_T51PTT_N{baseline}" imageFormat="JPEG2000">{listed}</Granule>
</Granule_List></Product_Organisation>
</Product_Info>
<Product_Image_Characteristics>{added}<Reflectance_Conversion><U>1.03</U></Reflectance_Conversion>
</Product_Image_Characteristics>
</n1:General_Info>
<n1:Geometric_Info><Product_Footprint><Product_Footprint><Global_Footprint>
<EXT_POS_LIST>{FOOTPRINT}</EXT_POS_LIST>
</Global_Footprint></Product_Footprint></Product_Footprint></n1:Geometric_Info>
<n1:Quality_Indicators_Info><Cloud_Coverage_Assessment>12.5</Cloud_Coverage_Assessment></n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>
"""


def _granule(baseline: str, made: str) -> str:
    sizes = "".join(
        f'<Size resolution="{step}"><NROWS>{SIDE_M // step}</NROWS><NCOLS>{SIDE_M // step}</NCOLS></Size>'
        for step in (10, 20, 60)
    )
    places = "".join(
        f'<Geoposition resolution="{step}"><ULX>{CORNER[0]}</ULX><ULY>{CORNER[1]}</ULY></Geoposition>'
        for step in (10, 20, 60)
    )
    angles = "<ZENITH_ANGLE>35.5</ZENITH_ANGLE><AZIMUTH_ANGLE>145.5</AZIMUTH_ANGLE>"
    views = "".join(
        f'<Mean_Viewing_Incidence_Angle bandId="{i}">{angles}</Mean_Viewing_Incidence_Angle>' for i in range(13)
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_Tile_ID xmlns:n1="{PSD}/S2_PDI_Level-2A_Tile_Metadata.xsd" {XSI}>
<n1:General_Info><TILE_ID>S2A_OPER_MSI_L2A_TL_VGS1_{made}_A028940_T51PTT_N{baseline}</TILE_ID></n1:General_Info>
<n1:Geometric_Info>
<Tile_Geocoding><HORIZONTAL_CS_CODE>EPSG:32651</HORIZONTAL_CS_CODE>{sizes}{places}</Tile_Geocoding>
<Tile_Angles><Mean_Sun_Angle>{angles}</Mean_Sun_Angle>
<Mean_Viewing_Incidence_Angle_List>{views}</Mean_Viewing_Incidence_Angle_List></Tile_Angles>
</n1:Geometric_Info>
<n1:Quality_Indicators_Info>
<Image_Content_QI><CLOUDY_PIXEL_PERCENTAGE>12.5</CLOUDY_PIXEL_PERCENTAGE></Image_Content_QI>
</n1:Quality_Indicators_Info>
</n1:Level-2A_Tile_ID>
"""
